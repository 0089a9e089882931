//! `/v1/groups`: how the groups of this instance stand, for `headwater groups`, which runs in another process. A group that
//! has failed is no member of its consumer group, so Kafka cannot say it.

use headwater::spi::ProcessMetrics;
use serde::{Deserialize, Serialize};

/// The groups of one instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct InstanceGroups {
    /// The name of the instance.
    pub(crate) instance: String,
    pub(crate) groups: Vec<GroupHealth>,
}

/// How a group stands there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct GroupHealth {
    /// The group's id.
    pub(crate) group: String,
    /// `joining`, `working`, `renewing`, `failed` or `halted`.
    pub(crate) state: String,
    /// What keeps it from its work, a sentence each.
    pub(crate) troubles: Vec<String>,
}

impl InstanceGroups {
    pub(super) fn of(instance: &str, states: &ProcessMetrics) -> Self {
        let health = |(group, state): (String, std::sync::Arc<headwater::spi::GroupMetrics>)| GroupHealth {
            group,
            state: state.activity().name().to_owned(),
            troubles: state.troubles(),
        };
        Self { instance: instance.to_owned(), groups: states.all().into_iter().map(health).collect() }
    }
}
