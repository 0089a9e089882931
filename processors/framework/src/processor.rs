//! Processors: how a plain function becomes something that the engine can run. They never know the worker.

pub(crate) mod function;
pub(crate) mod stateful;
pub(crate) mod stateless;

pub(crate) mod emit;
pub(crate) mod input;
pub(crate) mod state;

pub(crate) use self::function::ProcessError;
pub use self::{
    function::{Function, Interest, IntoProcessor, Processor, StatefulProcessor},
    stateless::{Matching, With, matching, with},
};
