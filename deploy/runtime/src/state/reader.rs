//! Reads one key, and asks whoever has it.

use std::sync::Arc;

use anyhow::Result;
use headwater::spi::partition_for;
use headwater_connectors::kafka::GroupMember;
use tokio::sync::Semaphore;

use super::{
    address,
    answer::{Entry, InstanceStats, RefusalKind, StateError},
    instance_client::InstanceClient,
    local_instance::{LocalGroup, LocalInstance},
    owners::{MaxAge, Owners},
    query::Hop,
    stores::{Store, StoreCatalogue},
};
use crate::{app::App, clients::Clients};

/// Questions that are answered at once at most; a list counts as [`LIST`] of them.
const AT_ONCE: usize = 64;
pub(super) const LIST: u32 = 8;

/// Reads the keyed state of every group of the pipeline, wherever it is.
pub(crate) struct StateReader {
    known: StoreCatalogue,
    pub(super) owners: Owners,
    pub(super) asker: InstanceClient,
    /// What this process has itself; a command has nothing.
    local_instance: Option<Arc<LocalInstance>>,
    room: Semaphore,
}

impl StateReader {
    /// # Errors
    /// When the system's network configuration cannot be read.
    pub(crate) fn new(app: &App, clients: &Clients, local_instance: Option<Arc<LocalInstance>>) -> Result<Self> {
        let known = StoreCatalogue::of(&app.groups);
        let owners = Owners::new(clients.cluster.clone(), known.ids());
        Ok(Self { known, owners, asker: InstanceClient::new()?, local_instance, room: Semaphore::new(AT_ONCE) })
    }

    /// What there is to be read.
    pub(crate) fn known(&self) -> &StoreCatalogue {
        &self.known
    }

    /// What a key has.
    ///
    /// # Errors
    /// When it has nothing, or cannot be read now.
    pub(crate) async fn get(&self, store: &Store, key: &str, hop: Hop) -> Result<Entry, StateError> {
        let _room = self.room(1)?;
        let found = match self.get_once(store, key, hop, MaxAge::enough()).await {
            Err(refusal) if refusal.may_have_moved() => self.get_once(store, key, hop, MaxAge::now()).await,
            found => found,
        };
        found.map_err(|refusal| hop.told(refusal))
    }

    async fn get_once(&self, store: &Store, key: &str, hop: Hop, fresh: MaxAge) -> Result<Entry, StateError> {
        let view = self.owners.view(&store.group, fresh).await?;
        let partition = partition_for(key.as_bytes(), view.count(store)?);
        let owner = view.owner(store, partition)?;
        match self.kept(store, owner, hop)? {
            Some(kept) => kept.get(store, partition, key).await,
            None => self.asker.get(owner, store, key).await,
        }
    }

    /// The group's state here where this process is the owner, `None` where another one has to be asked.
    pub(super) fn kept(&self, store: &Store, owner: &GroupMember, hop: Hop) -> Result<Option<LocalGroup>, StateError> {
        let kept = self.local_instance.as_ref().and_then(|local_instance| local_instance.kept(&store.group));
        let kept = kept.filter(|kept| owner.instance.as_deref() == Some(kept.member.as_str()));
        if kept.is_none() && hop == Hop::Forwarded {
            let text =
                format!("this instance does not have that partition of {store}: {} has it", address::name(owner));
            return Err(RefusalKind::Moved.because(text));
        }
        Ok(kept)
    }

    pub(super) fn room(&self, wanted: u32) -> Result<impl Drop + use<'_>, StateError> {
        let why = |_| RefusalKind::Away.because("too many questions about state are being answered: try again shortly");
        self.room.try_acquire_many(wanted).map_err(why)
    }

    /// What this instance has, of every stateful group.
    pub(crate) async fn stats(&self) -> Result<InstanceStats, StateError> {
        let _room = self.room(1)?;
        match &self.local_instance {
            Some(local_instance) => local_instance.stats(&self.known).await,
            None => Err(RefusalKind::Unknown.because("this process keeps no state")),
        }
    }

    /// What every member of a group has.
    ///
    /// # Errors
    /// When one of them does not answer.
    pub(crate) async fn stats_of(&self, group: &str) -> Result<Vec<InstanceStats>, StateError> {
        let view = self.owners.view(group, MaxAge::enough()).await?;
        let mut all = Vec::new();
        for member in view.members() {
            let mut stats = self.asker.stats(member).await?;
            stats.groups.retain(|of| of.group == group);
            all.push(stats);
        }
        Ok(all)
    }
}
