//! Reads one key, and asks whoever has it; or several, from every owner, and nothing where one of them cannot be read.

use std::{collections::BTreeSet, sync::Arc};

use anyhow::Result;
use futures_util::{StreamExt as _, stream};
use headwater::spi::{WAITING, partition_for};
use headwater_connectors::kafka::GroupMember;
use tokio::sync::Semaphore;

use super::{
    address,
    answer::{Entry, InstanceStats, RefusalKind, StateError},
    instance_client::{BYTES, InstanceClient},
    list::{by_owner, merged, waiting_name},
    local_instance::{LocalGroup, LocalInstance},
    owners::{MaxAge, Owners},
    query::{Hop, ListQuery, MOST},
    stores::{Store, StoreCatalogue},
};
use crate::{
    app::App,
    clients::{Clients, peer_client::PeerClient},
};

/// Questions that are answered at once at most; a list counts as [`LIST`] of them.
const AT_ONCE: usize = 64;
const LIST: u32 = 8;
/// Owners that are asked at the same time.
const OWNERS: usize = 8;

/// Reads the keyed state of every group of the pipeline, wherever it is.
pub(crate) struct StateReader {
    known: StoreCatalogue,
    owners: Owners,
    asker: InstanceClient,
    /// What this process has itself; a command has nothing.
    local_instance: Option<Arc<LocalInstance>>,
    room: Semaphore,
}

impl StateReader {
    /// # Errors
    /// When certificates or the system's network configuration cannot be read.
    pub(crate) fn new(app: &App, clients: &Clients, local_instance: Option<Arc<LocalInstance>>) -> Result<Self> {
        let known = StoreCatalogue::of(&app.groups);
        let owners = Owners::new(clients.cluster.clone(), known.ids());
        let asker = InstanceClient(PeerClient::new(app, clients, BYTES)?);
        Ok(Self { known, owners, asker, local_instance, room: Semaphore::new(AT_ONCE) })
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

    /// What a key has; of records that wait, which are numbered in each partition from 0 on, what each partition has.
    ///
    /// # Errors
    /// When it has nothing, or cannot be read now.
    pub(crate) async fn find(&self, store: &Store, key: &str, hop: Hop) -> Result<Vec<Entry>, StateError> {
        if store.name != WAITING {
            return Ok(vec![self.get(store, key, hop).await?]);
        }
        let name = waiting_name(key);
        let mut entries = self.list(store, &ListQuery::new(Some(name.clone()), Some(MOST))?, hop).await?;
        entries.retain(|entry| entry.key == name);
        if entries.is_empty() {
            let text = format!("{store} has no record `{}` in any partition", key.escape_debug());
            return Err(RefusalKind::Unknown.because(text));
        }
        Ok(entries)
    }

    /// The first keys that begin with the prefix, in order over all partitions.
    ///
    /// # Errors
    /// When one partition cannot be read.
    pub(crate) async fn list(&self, store: &Store, asked: &ListQuery, hop: Hop) -> Result<Vec<Entry>, StateError> {
        let _room = self.room(LIST)?;
        let found = match self.list_once(store, asked, hop, MaxAge::enough()).await {
            Err(refusal) if refusal.may_have_moved() => self.list_once(store, asked, hop, MaxAge::now()).await,
            found => found,
        };
        found.map_err(|refusal| hop.told(refusal))
    }

    async fn list_once(
        &self,
        store: &Store,
        asked: &ListQuery,
        hop: Hop,
        fresh: MaxAge,
    ) -> Result<Vec<Entry>, StateError> {
        let view = self.owners.view(&store.group, fresh).await?;
        let all: BTreeSet<i32> = (0..view.count(store)?).collect();
        let wanted = asked.partitions.as_ref().map_or(all.clone(), |some| all.intersection(some).copied().collect());
        let owned = by_owner(&view, store, &wanted)?;
        let parts = owned.into_values().map(|(owner, partitions)| self.list_of(owner, partitions, store, asked, hop));
        let mut parts = stream::iter(parts.collect::<Vec<_>>()).buffer_unordered(OWNERS);
        let mut entries = Vec::new();
        while let Some(part) = parts.next().await {
            entries = merged(entries, part?, asked.limit);
        }
        Ok(entries)
    }

    async fn list_of(
        &self,
        owner: &GroupMember,
        partitions: Vec<i32>,
        store: &Store,
        asked: &ListQuery,
        hop: Hop,
    ) -> Result<Vec<Entry>, StateError> {
        let named = partitions.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        match self.kept(store, owner, hop) {
            Ok(Some(kept)) => kept.list(store, partitions, &asked.prefix, asked.limit).await,
            Ok(None) => {
                let listed = self.asker.list(owner, store, &partitions, asked).await;
                listed.map_err(|refusal| refusal.of_partitions(&named))
            }
            Err(refusal) => Err(refusal),
        }
    }

    /// The group's state here where this process is the owner, `None` where another one has to be asked.
    fn kept(&self, store: &Store, owner: &GroupMember, hop: Hop) -> Result<Option<LocalGroup>, StateError> {
        let kept = self.local_instance.as_ref().and_then(|local_instance| local_instance.kept(&store.group));
        let kept = kept.filter(|kept| kept.member.is(owner));
        if kept.is_none() && hop == Hop::Forwarded {
            let text =
                format!("this instance does not have that partition of {store}: {} has it", address::name(owner));
            return Err(RefusalKind::Moved.because(text));
        }
        Ok(kept)
    }

    fn room(&self, wanted: u32) -> Result<impl Drop + use<'_>, StateError> {
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
