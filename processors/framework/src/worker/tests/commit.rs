//! Units of work on their way to a store that may refuse them.

mod halves;
mod several;
