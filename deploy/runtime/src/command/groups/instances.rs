//! What the instances say of their groups: found through the client ids of the members that there are, and at the address
//! where this configuration answers itself.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use futures_util::{StreamExt as _, stream};
use headwater::spi::Activity;
use headwater_connectors::kafka::GroupMember;

use crate::{
    app::App,
    clients::{
        Clients,
        peer_client::{PeerClient, PeerError},
    },
    http::{GroupHealth, InstanceGroups},
    state::address_of,
};

/// Bytes of its answer at most.
const BYTES: usize = 4 << 20;
/// Instances that are asked at the same time.
const AT_ONCE: usize = 16;

/// What was said of the groups, by their ids.
#[derive(Default)]
pub(crate) struct InstanceReports {
    by_group: BTreeMap<String, Vec<(String, GroupHealth)>>,
}

impl InstanceReports {
    /// What each instance says of a group, by the instance's name.
    pub(crate) fn of(&self, group: &str) -> &[(String, GroupHealth)] {
        self.by_group.get(group).map_or(&[], Vec::as_slice)
    }

    /// What a group is doing, where that is worse than what its `members` look like: one that left a moment ago still counts.
    pub(crate) fn worse(&self, group: &str, members: usize) -> Option<&'static str> {
        let reports = self.of(group);
        let is = |activity: Activity| reports.iter().any(|(_, health)| health.state == activity.name());
        let is_up = [Activity::Working, Activity::Joining, Activity::Renewing].into_iter().any(is);
        let all_down = !is_up && !reports.is_empty() && reports.len() >= members;
        let worst = if is(Activity::Halted) { Activity::Halted } else { Activity::Failed };
        all_down.then(|| worst.name())
    }

    fn take(&mut self, instance: &InstanceGroups) {
        for health in &instance.groups {
            let reports = self.by_group.entry(health.group.clone()).or_default();
            // What is said twice was said at two addresses of one process; of two with one name each says something else.
            let said = (instance.instance.clone(), health.clone());
            if !reports.contains(&said) {
                reports.push(said);
            }
        }
    }
}

/// Asks every instance that these members belong to, and whoever answers where this configuration would. One that does not
/// answer says nothing; of one that does not take what it is shown, or may not be shown it, `warn` is told.
///
/// # Errors
/// When certificates or the system's network configuration cannot be read.
pub(crate) async fn ask<'a>(
    (app, clients): (&App, &Clients),
    members: impl Iterator<Item = &'a GroupMember>,
    warn: fn(String),
) -> Result<InstanceReports> {
    let client = &PeerClient::new(app, clients, BYTES)?;
    let mut addresses: BTreeSet<String> = members.filter_map(address_of).collect();
    let addr = app.config.http.addr;
    let here = if addr.ip().is_unspecified() { format!("127.0.0.1:{}", addr.port()) } else { addr.to_string() };
    addresses.extend((addr.port() > 0).then_some(here));
    let answers = addresses.into_iter().map(async |address| {
        let answer = match client.get(&address, "/v1/groups", Vec::new()).await {
            Ok(answer) => answer,
            Err(PeerError::NoAnswer(_)) => return None,
            Err(error) => {
                warn(format!("the instance at {address} is not asked: {error}"));
                return None;
            }
        };
        if answer.status == 401 {
            warn(format!("the instance at {address} takes neither our token nor our certificate"));
        }
        serde_json::from_slice::<InstanceGroups>(&answer.body).ok().filter(|_| answer.status == 200)
    });
    let mut answers = stream::iter(answers.collect::<Vec<_>>()).buffer_unordered(AT_ONCE);
    let mut reports = InstanceReports::default();
    while let Some(answer) = answers.next().await {
        answer.iter().for_each(|instance| reports.take(instance));
    }
    reports.by_group.values_mut().for_each(|reports| reports.sort_by(|(a, _), (b, _)| a.cmp(b)));
    Ok(reports)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reports(states: &[(&str, &str)]) -> InstanceReports {
        let mut reports = InstanceReports::default();
        for (instance, state) in states {
            let health = GroupHealth { group: "g".to_owned(), state: (*state).to_owned(), troubles: Vec::new() };
            reports.take(&InstanceGroups { instance: (*instance).to_owned(), groups: vec![health] });
        }
        reports
    }

    /// Red when one instance that works, or has its clients made anew, or one that did not answer, does not make the group work, a halted one is passed
    /// over for one that is tried again, or of two processes with one name only one is heard.
    #[test]
    fn a_group_is_down_where_every_instance_says_so() {
        assert_eq!(reports(&[("a", "halted"), ("b", "failed")]).worse("g", 2), Some("halted"));
        assert_eq!(reports(&[("a", "failed")]).worse("g", 0), Some("failed"));
        assert_eq!(reports(&[("a", "failed"), ("b", "working")]).worse("g", 1), None);
        assert_eq!(reports(&[("a", "renewing")]).worse("g", 1), None);
        assert_eq!(reports(&[("a", "failed")]).worse("g", 2), None, "the other one may work");
        assert_eq!(reports(&[]).worse("g", 0), None);
        assert_eq!(reports(&[("a", "failed"), ("a", "failed")]).of("g").len(), 1, "reached by two addresses");
        assert_eq!(reports(&[("a", "working"), ("a", "halted")]).of("g").len(), 2, "two processes with one name");
    }
}
