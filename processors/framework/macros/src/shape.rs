//! What a function's signature says, as far as its tokens tell.

use proc_macro2::{TokenStream, TokenTree};
use quote::ToTokens;
use syn::{Error, FnArg, GenericArgument, ItemFn, PathArguments, Result, ReturnType, Signature, Type};

/// The two right signatures, as every message about a wrong one ends.
const RIGHT: &str = "a stateless processor is `async fn(Event) -> Result<impl Emit>`; \
                     a stateful one is `fn(&mut State, Event) -> Result<impl Emit>`";

/// A processor's signature.
pub(crate) struct Shape<'a> {
    pub(crate) kind: Kind,
    /// Every argument's type, in order.
    pub(crate) arguments: Vec<&'a Type>,
    /// The last argument's type: the event.
    pub(crate) event: &'a Type,
    /// What the function returns, and an async one resolves to.
    pub(crate) result: &'a Type,
    /// Whether an `impl Trait` stands in `result`, so that its type has no name to check.
    pub(crate) opaque: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Calling it gives a future: stateless.
    Future,
    /// Calling it gives the result: stateful.
    Plain,
}

impl<'a> Shape<'a> {
    /// Reads the signature; the error stands at the part that is wrong.
    pub(crate) fn of(function: &'a ItemFn) -> Result<Self> {
        let signature = &function.sig;
        let arguments = arguments(signature)?;
        let Some(&event) = arguments.last() else {
            return Err(Error::new(signature.ident.span(), wrong("the last argument must be the event")));
        };
        if let Type::Reference(event) = event {
            return Err(Error::new_spanned(event, wrong("an event is taken by value, not by reference")));
        }
        let result = match &signature.output {
            ReturnType::Type(_, result) => &**result,
            ReturnType::Default => {
                let what = wrong("a processor returns `Result`; what emits nothing, `Result<()>`");
                return Err(Error::new(signature.ident.span(), what));
            }
        };
        let kind = kind(signature, &arguments, result)?;
        // Of a plain function that returns a future only the future's output is looked at, through the call.
        let opaque = mentions_impl(result.to_token_stream()) || (kind == Kind::Future && signature.asyncness.is_none());
        Ok(Self { kind, arguments, event, result, opaque })
    }
}

fn arguments(signature: &Signature) -> Result<Vec<&Type>> {
    if let Some(parameter) = signature.generics.type_params().next() {
        return Err(Error::new_spanned(parameter, wrong("a processor has no type parameters: it takes one event")));
    }
    let types = signature.inputs.iter().map(|argument| match argument {
        FnArg::Receiver(this) => Err(Error::new_spanned(this, wrong("a processor is a free function, not a method"))),
        FnArg::Typed(argument) if mentions_impl(argument.ty.to_token_stream()) => {
            Err(Error::new_spanned(&argument.ty, wrong("an argument has a named type, not `impl Trait`")))
        }
        FnArg::Typed(argument) => Ok(&*argument.ty),
    });
    types.collect()
}

fn kind(signature: &Signature, arguments: &[&Type], result: &Type) -> Result<Kind> {
    let state = arguments.iter().find(|t| matches!(t, Type::Reference(r) if r.mutability.is_some()));
    match (state, signature.asyncness) {
        (Some(state), Some(_)) => {
            let what = wrong("an async processor cannot take `&mut` state: a stateful one is pure and not async");
            Err(Error::new_spanned(state, what))
        }
        (Some(_), None) => Ok(Kind::Plain),
        (None, Some(_)) => Ok(Kind::Future),
        (None, None) if is_result(result) => {
            let what = wrong("this is neither async nor does it take `&mut` state");
            Err(Error::new(signature.fn_token.span, what))
        }
        // Something that is no result by name: a future, boxed or `impl`.
        (None, None) => Ok(Kind::Future),
    }
}

fn is_result(ty: &Type) -> bool {
    matches!(ty, Type::Path(path) if path.path.segments.last().is_some_and(|s| s.ident == "Result"))
}

/// `T` of `Result<T>`.
pub(crate) fn first_argument(ty: &Type) -> Option<&Type> {
    let Type::Path(path) = ty else { return None };
    let PathArguments::AngleBracketed(list) = &path.path.segments.last()?.arguments else { return None };
    match list.args.first()? {
        GenericArgument::Type(ty) => Some(ty),
        _ => None,
    }
}

fn mentions_impl(tokens: TokenStream) -> bool {
    tokens.into_iter().any(|token| match token {
        TokenTree::Ident(ident) => ident == "impl",
        TokenTree::Group(group) => mentions_impl(group.stream()),
        _ => false,
    })
}

fn wrong(what: &str) -> String {
    format!("{what}\n{RIGHT}")
}
