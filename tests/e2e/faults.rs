//! Processes, brokers and databases that fail, and what then is lost: nothing.

mod crash;
pub(crate) mod crash_points;
mod idle_process;
mod membership;
pub(crate) mod outage;
mod recovery;
pub(crate) mod supervision;
