//! Schemas by id: fetched once, kept for the life of the process, and never mistaken about an outage.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
    time::Duration,
};

use tokio::sync::Semaphore;

use super::{catalogue::topic_of, topology::subject_of};
use crate::{
    codec::{CodecError, Encoder, WriterSchema},
    event::event_type::EventType,
    ports::{Clock, SchemaError, SchemaText, Schemas},
    processor::emit::Encoders,
};

/// An id that the registry says it does not have is asked for twice, this far apart: a producer's registration may be
/// on its way to the registry's other nodes.
const SECOND_LOOK: Duration = Duration::from_secs(2);
/// For this long the answer that there is none stands.
const UNKNOWN_FOR: Duration = Duration::from_secs(30);
/// After an outage nobody asks again for this long, so that waiting records do not queue up behind time-outs.
const OUTAGE_FOR: Duration = Duration::from_millis(500);
/// A producer of random ids must not fill the memory.
const UNKNOWN_LIMIT: usize = 10_000;
/// How many questions the registry is asked at once.
const QUESTIONS: usize = 16;

/// The cache in front of the registry. Only definite answers are kept, and "unknown" only for a while.
pub struct SchemaCache {
    port: Arc<dyn Schemas>,
    clock: Arc<dyn Clock>,
    known: RwLock<HashMap<u32, Arc<WriterSchema>>>,
    negative: Mutex<Negative>,
    /// Ids that are being fetched: many records wait for the same new schema, and none for another's.
    fetching: Mutex<HashMap<u32, Arc<tokio::sync::Mutex<()>>>>,
    /// Questions that the registry is asked at once; waiting for the second look takes no place.
    asking: Semaphore,
}

#[derive(Default)]
struct Negative {
    unknown: HashMap<u32, (Duration, String)>,
    outage: Option<(Duration, String)>,
}

/// A place among those that wait for one id; the last one to leave forgets the id.
struct Turn<'a> {
    cache: &'a SchemaCache,
    id: u32,
    lock: Arc<tokio::sync::Mutex<()>>,
}

impl<'a> Turn<'a> {
    fn of(cache: &'a SchemaCache, id: u32) -> Self {
        let lock = cache.fetching().entry(id).or_default().clone();
        Self { cache, id, lock }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut fetching = self.cache.fetching();
        // The table's own, and this one.
        if Arc::strong_count(&self.lock) <= 2 {
            fetching.remove(&self.id);
        }
    }
}

/// Why there is no schema for an id.
#[derive(Debug)]
pub(crate) enum SchemaLookupError {
    /// The registry has none, or what it has is not Avro: the record cannot be read by anybody.
    Poison(String),
    /// The registry does not answer.
    Outage(String),
}

impl SchemaCache {
    /// A cache in front of `port`.
    pub fn new(port: Arc<dyn Schemas>, clock: Arc<dyn Clock>) -> Self {
        Self {
            port,
            clock,
            known: RwLock::default(),
            negative: Mutex::default(),
            fetching: Mutex::default(),
            asking: Semaphore::new(QUESTIONS),
        }
    }

    /// The schema, if it has been fetched before.
    pub(crate) fn cached(&self, id: u32) -> Option<Arc<WriterSchema>> {
        self.known.read().unwrap_or_else(PoisonError::into_inner).get(&id).cloned()
    }

    /// Whether asking for this id now has its answer at once.
    pub(crate) fn has_answer(&self, id: u32) -> bool {
        self.cached(id).is_some() || self.remembered(id).is_err()
    }

    /// The schema with this id.
    pub(crate) async fn get(&self, id: u32) -> Result<Arc<WriterSchema>, SchemaLookupError> {
        if let Some(schema) = self.cached(id) {
            return Ok(schema);
        }
        let turn = Turn::of(self, id);
        let _one = turn.lock.lock().await;
        if let Some(schema) = self.cached(id) {
            return Ok(schema);
        }
        self.remembered(id)?;
        match self.fetch(id).await {
            Ok(schema) => {
                self.known.write().unwrap_or_else(PoisonError::into_inner).insert(id, schema.clone());
                Ok(schema)
            }
            Err(no) => {
                self.remember(id, &no);
                Err(no)
            }
        }
    }

    async fn fetch(&self, id: u32) -> Result<Arc<WriterSchema>, SchemaLookupError> {
        let mut answer = self.ask(id).await?;
        if matches!(answer, Err(SchemaError::Unknown(_))) {
            self.clock.sleep(SECOND_LOOK).await;
            answer = self.ask(id).await?;
        }
        match answer {
            Ok(text) => WriterSchema::parse(id, &text.schema, &text.references)
                .map_err(|e| SchemaLookupError::Poison(format!("schema {id} is not valid Avro: {e}"))),
            Err(SchemaError::Unknown(why)) => {
                Err(SchemaLookupError::Poison(format!("the registry has no schema {id}: {why}")))
            }
            Err(SchemaError::Outage(why)) => Err(SchemaLookupError::Outage(why)),
        }
    }

    /// Asks the registry, unless it was found down while this waited for its turn.
    async fn ask(&self, id: u32) -> Result<Result<SchemaText, SchemaError>, SchemaLookupError> {
        // Nobody closes the semaphore.
        let _place = self.asking.acquire().await;
        self.remembered(id)?;
        let answer = self.port.by_id(id).await;
        if let Err(SchemaError::Outage(why)) = &answer {
            self.remember(id, &SchemaLookupError::Outage(why.clone()));
        }
        Ok(answer)
    }

    fn fetching(&self) -> MutexGuard<'_, HashMap<u32, Arc<tokio::sync::Mutex<()>>>> {
        self.fetching.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn remembered(&self, id: u32) -> Result<(), SchemaLookupError> {
        let (now, negative) = (self.clock.elapsed(), self.negative.lock().unwrap_or_else(PoisonError::into_inner));
        match (&negative.outage, negative.unknown.get(&id)) {
            (Some((until, why)), _) if now < *until => Err(SchemaLookupError::Outage(why.clone())),
            (_, Some((until, why))) if now < *until => Err(SchemaLookupError::Poison(why.clone())),
            _ => Ok(()),
        }
    }

    fn remember(&self, id: u32, no: &SchemaLookupError) {
        let (now, mut negative) = (self.clock.elapsed(), self.negative.lock().unwrap_or_else(PoisonError::into_inner));
        match no {
            SchemaLookupError::Outage(why) => negative.outage = Some((now + OUTAGE_FOR, why.clone())),
            SchemaLookupError::Poison(why) => {
                if negative.unknown.len() >= UNKNOWN_LIMIT {
                    negative.unknown.clear();
                }
                negative.unknown.insert(id, (now + UNKNOWN_FOR, why.clone()));
            }
        }
    }

    /// Encoders for what a group emits, each under the id that the registry holds it by.
    pub(crate) async fn encoders(&self, types: &[EventType], limit: usize) -> Result<Encoders, SchemaError> {
        let mut encoders = Encoders::new(limit);
        for facts in types {
            let id = self.port.id_of(&subject_of(facts), facts.schema).await?;
            let encoder =
                Encoder::new(id, facts.schema).map_err(|e: CodecError| SchemaError::Unknown(e.to_string()))?;
            encoders.add(facts.name, &topic_of(facts.name), encoder);
        }
        Ok(encoders)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        collections::VecDeque,
        future::Future,
        pin::pin,
        task::{Context, Poll, Waker},
    };

    use super::*;
    use crate::{driver::clock::ManualClock, ports::BoxFuture};

    const SECOND: Duration = Duration::from_secs(1);
    /// What the registry holds under this id is not Avro.
    const JUNK: u32 = 666;

    /// Gives the answers that it was told to give, then a schema; each takes a tenth of a second.
    struct Registry {
        clock: Arc<ManualClock>,
        answers: Mutex<VecDeque<SchemaError>>,
        asked: Mutex<Vec<(u32, Duration)>>,
    }

    impl Schemas for Registry {
        fn by_id(&self, id: u32) -> BoxFuture<'_, Result<SchemaText, SchemaError>> {
            self.asked.lock().unwrap().push((id, self.clock.elapsed()));
            let answer = self.answers.lock().unwrap().pop_front();
            let schema = if id == JUNK { "junk" } else { r#""string""# }.to_owned();
            let text = SchemaText { schema, references: Vec::new() };
            Box::pin(async move {
                self.clock.sleep(SECOND / 10).await;
                answer.map_or(Ok(text), Err)
            })
        }

        fn id_of<'a>(&'a self, _: &'a str, _: &'a str) -> BoxFuture<'a, Result<u32, SchemaError>> {
            Box::pin(std::future::ready(Ok(1)))
        }
    }

    struct Bench {
        clock: Arc<ManualClock>,
        registry: Arc<Registry>,
        cache: SchemaCache,
    }

    impl Bench {
        fn of(answers: impl IntoIterator<Item = SchemaError>) -> Self {
            let clock = Arc::new(ManualClock::default());
            let answers = Mutex::new(answers.into_iter().collect());
            let registry = Arc::new(Registry { clock: clock.clone(), answers, asked: Mutex::default() });
            let cache = SchemaCache::new(registry.clone(), clock.clone());
            Self { clock, registry, cache }
        }

        /// Lets time pass until this is done.
        fn wait<T>(&self, future: impl Future<Output = T>) -> T {
            let mut future = pin!(future);
            loop {
                if let Poll::Ready(done) = future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                    return done;
                }
                self.clock.set(self.clock.next_due().expect("somebody waits for the time"));
            }
        }

        fn get(&self, id: u32) -> Result<(), SchemaLookupError> {
            self.wait(self.cache.get(id)).map(|_| ())
        }

        fn pass(&self, by: Duration) {
            self.clock.set(self.clock.elapsed() + by);
        }

        fn asked(&self) -> Vec<(u32, Duration)> {
            std::mem::take(&mut self.registry.asked.lock().unwrap())
        }
    }

    fn unknown() -> SchemaError {
        SchemaError::Unknown("404".to_owned())
    }

    fn outage() -> SchemaError {
        SchemaError::Outage("503".to_owned())
    }

    /// Red when one look is enough, the second comes at once, or a schema that came in between is not taken.
    #[test]
    fn an_unknown_id_is_asked_for_twice() {
        let bench = Bench::of([unknown()]);
        assert!(bench.get(7).is_ok());
        assert_eq!(bench.asked(), [(7, Duration::ZERO), (7, SECOND / 10 + 2 * SECOND)]);
        let bench = Bench::of([unknown(), outage()]);
        assert!(matches!(bench.get(7), Err(SchemaLookupError::Outage(_))), "the second answer counts");
    }

    /// Red when an unknown id is asked for again within 30 s, is never asked for again, or stands for other ids.
    #[test]
    fn an_unknown_id_is_remembered_for_half_a_minute() {
        let bench = Bench::of([unknown(), unknown()]);
        assert!(matches!(bench.get(7), Err(SchemaLookupError::Poison(why)) if why.contains("no schema 7: 404")));
        assert_eq!(bench.asked().len(), 2);
        assert!(bench.get(8).is_ok());
        assert_eq!(bench.asked().len(), 1);
        bench.pass(30 * SECOND - SECOND / 10 - Duration::from_millis(1));
        assert!(matches!(bench.get(7), Err(SchemaLookupError::Poison(_))));
        assert_eq!(bench.asked(), []);
        bench.pass(Duration::from_millis(1));
        assert!(bench.get(7).is_ok());
        assert_eq!(bench.asked().len(), 1);
    }

    /// Red when an outage is asked about at once, or is remembered beyond half a second, or is poison.
    #[test]
    fn an_outage_is_forgotten_after_half_a_second() {
        let bench = Bench::of([outage()]);
        assert!(matches!(bench.get(7), Err(SchemaLookupError::Outage(_))));
        bench.pass(SECOND / 2 - Duration::from_millis(1));
        assert!(matches!(bench.get(8), Err(SchemaLookupError::Outage(_))), "no other id is asked for either");
        assert_eq!(bench.asked().len(), 1);
        bench.pass(Duration::from_millis(1));
        assert!(bench.get(7).is_ok() && bench.get(8).is_ok());
        assert_eq!(bench.asked().len(), 2);
    }

    /// Red when the cache is not asked again behind the fetch of another, or a known schema is fetched again.
    #[test]
    fn many_that_wait_for_one_schema_fetch_it_once() {
        let bench = Bench::of([]);
        let all = bench.wait(futures_util::future::join_all((0..10).map(|_| bench.cache.get(7))));
        assert!(all.iter().all(Result::is_ok) && bench.get(7).is_ok());
        assert_eq!(bench.asked().len(), 1);
        let bench = Bench::of([unknown(), unknown()]);
        let all = bench.wait(futures_util::future::join_all((0..10).map(|_| bench.cache.get(7))));
        assert!(all.iter().all(Result::is_err));
        assert_eq!(bench.asked().len(), 2, "that there is none is found out once, too");
    }

    /// Red when one lock covers all fetches, more questions are asked at once than may be, or an id is kept that nobody
    /// waits for.
    #[test]
    fn unknown_ids_do_not_wait_for_one_another() {
        let bench = Bench::of((0..200).map(|_| unknown()));
        let all = bench.wait(futures_util::future::join_all((0..100).map(|id| bench.cache.get(id))));
        assert!(all.iter().all(Result::is_err));
        // The last of 100 questions of 0.1 s, 16 at once, is asked at 0.6 s, and again 2 s after its answer.
        assert_eq!(bench.clock.elapsed(), 2 * SECOND + 8 * SECOND / 10);
        assert!(bench.cache.fetching().is_empty());
    }

    /// Red when those that wait for their turn at a registry that is down ask it all the same.
    #[test]
    fn nobody_queues_at_a_registry_that_is_down() {
        let bench = Bench::of((0..100).map(|_| outage()));
        let all = bench.wait(futures_util::future::join_all((0..100).map(|id| bench.cache.get(id))));
        assert!(all.iter().all(|one| matches!(one, Err(SchemaLookupError::Outage(_)))));
        assert_eq!(bench.asked().len(), QUESTIONS);
    }

    /// Red when a schema that is not Avro is taken for an outage, or fetched for every record.
    #[test]
    fn what_is_not_avro_is_remembered_as_poison() {
        let bench = Bench::of([]);
        for _ in 0..2 {
            assert!(
                matches!(bench.get(JUNK), Err(SchemaLookupError::Poison(why)) if why.contains("is not valid Avro"))
            );
        }
        assert_eq!(bench.asked().len(), 1);
    }

    /// Red when the table of unknown ids grows without a bound.
    #[test]
    fn unknown_ids_do_not_fill_the_memory() {
        let bench = Bench::of([]);
        let no = SchemaLookupError::Poison("none".to_owned());
        (0..25_000).for_each(|id| bench.cache.remember(id, &no));
        let remembered = bench.cache.negative.lock().unwrap().unknown.len();
        assert!((1..=UNKNOWN_LIMIT).contains(&remembered), "{remembered}");
    }
}
