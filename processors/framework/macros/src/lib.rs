//! `#[on_event("payment.completed")]`: a label above a processor that the compiler checks.
//!
//! It registers nothing and leaves the function as it was written. What it adds is a constant without a name that holds
//! the checks, each with the span of the thing it checks, so that each error stands at its own place.
//!
//! It knows the names `headwater::{Input, Emit, Result}` and nothing of events, pipelines or brokers.

mod label;
mod shape;

use proc_macro::TokenStream;
use proc_macro2::TokenStream as Tokens;
use quote::{format_ident, quote, quote_spanned};
use syn::{Ident, ItemFn, LitStr, Type, parse_macro_input, spanned::Spanned};

use crate::shape::{Kind, Shape};

/// Labels a processor with the event it takes, `#[on_event("payment.completed")]`, or under `Event<Any>` with a pattern,
/// `#[on_event("analysis.*")]`: `*` is one segment, `#` the rest, a lone `*` everything.
///
/// The compiler then checks, each at its own place, that
/// - the last argument's event has that name,
/// - the last argument is an event: `T`, `Event<T>` or `Event<Any>`,
/// - the function returns `headwater::Result` of something that can be emitted,
/// - the future of an async function is `Send`.
///
/// The function stays as it was written: registration is `Pipeline::on`, and a test calls it like any other function.
///
/// ```text
/// #[on_event("payment.completed")]
/// pub async fn send_receipt(payment: PaymentCompleted) -> Result<ReceiptRequested> { … }
///
/// #[on_event("payment.completed")]
/// pub async fn fulfil_order(warehouse: Warehouse, payment: Event<PaymentCompleted>) -> Result<OrderFulfilled> { … }
///
/// #[on_event("payment.completed")]
/// pub fn flag_big_spender(spend: &mut Spend, payment: PaymentCompleted) -> Result<Option<CustomerFlagged>> { … }
/// ```
#[proc_macro_attribute]
pub fn on_event(attribute: TokenStream, item: TokenStream) -> TokenStream {
    let label = parse_macro_input!(attribute as LitStr);
    let function = parse_macro_input!(item as ItemFn);
    // A wrong shape leaves nothing to check further, but the function must stay, or every use of it is an error too.
    let checks = match label::valid(&label).and_then(|()| Shape::of(&function)) {
        Ok(shape) => checks(&label, &function.sig.ident, &shape),
        Err(error) => error.to_compile_error(),
    };
    let cfgs = function.attrs.iter().filter(|a| a.path().is_ident("cfg"));
    quote! { #function #(#cfgs)* const _: () = { #checks }; }.into()
}

fn checks(label: &LitStr, function: &Ident, shape: &Shape) -> Tokens {
    let output = if shape.opaque { Tokens::new() } else { output(shape.result) };
    let future = if shape.kind == Kind::Future { future(function, shape) } else { Tokens::new() };
    let name = name(label, shape.event);
    quote! { #name #output #future }
}

/// The argument is an event, and the label names it: two errors, the first at the type, whose tokens keep their spans.
fn name(label: &LitStr, event: &Type) -> Tokens {
    let wrong = format!("the last argument is not the event `{}`", label.value());
    quote_spanned! { label.span() =>
        const _: () = ::core::assert!(
            ::headwater::__private::label_matches(<#event as ::headwater::Input>::LABEL, #label),
            #wrong
        );
    }
}

/// What is returned is the framework's result, of something to emit.
fn output(result: &Type) -> Tokens {
    let emitted = shape::first_argument(result).map(|emitted| {
        quote_spanned! { emitted.span() =>
            fn __emitted<O: ::headwater::Emit>() {}
            let _ = __emitted::<#emitted>;
        }
    });
    quote_spanned! { result.span() =>
        #[diagnostic::on_unimplemented(
            message = "a processor returns `headwater::Result`, not `{Self}`",
            label = "not a `headwater::Result`",
            note = "its error is `headwater::Failure`, to which `?` converts every other error"
        )]
        trait __Returned {}
        impl<O> __Returned for ::headwater::Result<O> {}
        fn __returned<R: __Returned>() {}
        let _ = __returned::<#result>;
        #emitted
    }
}

/// The future can move between threads; what an `impl Trait` in the return type hides is looked at here too.
fn future(function: &Ident, shape: &Shape) -> Tokens {
    let types = &shape.arguments;
    let names: Vec<_> = (0..types.len()).map(|i| format_ident!("__a{i}")).collect();
    let output = shape.opaque.then(|| {
        quote_spanned! { shape.result.span() =>
            fn __output<O: ::headwater::Emit>(_: impl ::core::future::Future<Output = ::headwater::Result<O>>) {}
            let _ = |#(#names: #types),*| __output(#function(#(#names),*));
        }
    });
    quote_spanned! { function.span() =>
        fn __send<T: ::core::marker::Send>(_: T) {}
        let _ = |#(#names: #types),*| __send(#function(#(#names),*));
        #output
    }
}
