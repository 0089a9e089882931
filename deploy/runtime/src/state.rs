//! Reading keyed state from outside, over HTTP and by command.
//!
//! A partition's state is read where Kafka says that the partition is, and nowhere else: whoever is asked looks up the
//! group's members and passes the question on. So an instance that has lost a partition does not answer for it any more,
//! once what it knows of the group is older than a second. What is read is what was committed last. Nothing here blocks
//! the groups, and everything is bounded: questions at once, their time, the bytes of an answer.

mod answer;
mod query;

mod address;
mod stores;

mod local_instance;
mod owners;

mod instance_client;
mod list;
mod reader;

mod routes;

pub(crate) use self::{
    address::of as address_of,
    answer::{Entry, KeyAnswer, StateError},
    local_instance::{LocalInstance, LocalMember, watch},
    query::{Hop, ListQuery},
    reader::StateReader,
    routes::routes,
    stores::Store,
};
