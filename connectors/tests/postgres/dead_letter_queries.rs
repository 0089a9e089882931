//! The table of dead letters: what is found in it, and what becomes of letters that are sent back, discarded, edited.

use std::{collections::BTreeMap, future::pending, time::Duration};

use headwater::{Headers, Origin, Time, TopicPartition, spi::DeadLetter};
use headwater_connectors::postgres::{
    LetterActions, LetterError, LetterFilter, Letters, PostgresError, SendOutcome, Status, StoredLetter, Summary,
};
use sqlx::AssertSqlSafe;
use tokio::sync::Barrier;
use uuid::Uuid;

use crate::harness::Db;

/// When letter 0 became one, in milliseconds; each later one a second after the one before.
const BEGIN: i64 = 1_767_225_600_000;
const OPEN: [Status; 1] = [Status::Open];

/// The id of letter `n`.
fn id(n: u128) -> Uuid {
    Uuid::from_u128(n)
}

/// Letter `n` of a group, with a fingerprint `f…` of its kind, as the sink stores it.
async fn letter(db: &mut Db, n: u128, group: &str, kind: &str, status: &str) {
    let sql = format!(
        "insert into headwater.dead_letters (id, consumer_group, processor, event_id, event_type, kind, message, detail, \
         fingerprint, status, attempts, redrive_count, origin_topic, origin_partition, origin_offset, origin_timestamp, \
         key, value, headers, correlation_id, first_failed_at, dead_lettered_at) values ('{id}', '{group}', 'p', 'e-{n}', \
         'thing.changed', '{kind}', 'it broke', 'it broke: here', 'f-{kind}', '{status}', 5, 1, 'events.thing', 2, {n}, \
         to_timestamp(1700000000.123), 'k', '\\x000000000702ff', \
         '[{{\"name\":\"ce_id\",\"text\":\"e-{n}\"}},{{\"name\":\"raw\",\"base64\":\"/wA=\"}},{{\"name\":\"ce_id\"}},{{\"name\":\"empty\",\"text\":\"\"}}]', \
         'c-{n}', to_timestamp({first}), to_timestamp({at}))",
        id = id(n),
        first = BEGIN / 1_000 - 60,
        at = BEGIN / 1_000 + i64::try_from(n).unwrap(),
    );
    sqlx::query(AssertSqlSafe(sql)).execute(&mut db.conn).await.unwrap();
}

async fn status(db: &mut Db, n: u128) -> String {
    let sql = format!("select status from headwater.dead_letters where id = '{}'", id(n));
    sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(&mut db.conn).await.unwrap()
}

/// Every letter that is meant, read in pages of `size`.
async fn pages(db: &Db, filter: &LetterFilter, newest_first: bool, size: u32) -> Vec<Summary> {
    let (letters, mut all) = (Letters::of(&db.database), Vec::<Summary>::new());
    loop {
        let page = letters.page(filter, all.last(), newest_first, size).await.unwrap();
        if page.is_empty() {
            return all;
        }
        assert!(page.len() <= size as usize);
        all.extend(page);
    }
}

fn numbers(found: &[Summary]) -> Vec<u128> {
    found.iter().map(|letter| letter.id.as_u128()).collect()
}

fn of(group: &str) -> LetterFilter {
    LetterFilter { group: Some(group.to_owned()), ..LetterFilter::default() }
}

fn all_sent(letters: &[StoredLetter]) -> Vec<SendOutcome> {
    letters.iter().map(|_| SendOutcome::Sent).collect()
}

/// Red when headers lose their order, a null or their bytes, a time loses its milliseconds, or a null value reads as empty.
#[tokio::test]
async fn a_stored_letter_is_the_one_that_was_dead_lettered() {
    let mut db = Db::new("letters_whole").await;
    letter(&mut db, 7, "g", "rejected", "open").await;
    let stored = Letters::of(&db.database).get(id(7)).await.unwrap().unwrap();
    let headers = [("ce_id", Some(&b"e-7"[..])), ("raw", Some(&b"\xff\0"[..])), ("ce_id", None), ("empty", Some(b""))];
    let expected = DeadLetter {
        group: "g".to_owned(),
        processor: "p".to_owned(),
        event_id: "e-7".to_owned(),
        event_type: Some("thing.changed".to_owned()),
        correlation_id: "c-7".to_owned(),
        kind: "rejected".to_owned(),
        message: "it broke".to_owned(),
        detail: "it broke: here".to_owned(),
        fingerprint: "f-rejected".to_owned(),
        attempts: 5,
        redrives: 1,
        origin: Origin {
            partition: TopicPartition::new("events.thing", 2),
            offset: 7,
            timestamp_ms: 1_700_000_000_123,
        },
        first_failed_ms: BEGIN - 60_000,
        dead_lettered_ms: BEGIN + 7_000,
        resolved: false,
        key: Some(b"k".to_vec()),
        value: Some(b"\0\0\0\0\x07\x02\xff".to_vec()),
        headers: Headers::from_iter(headers),
    };
    assert_eq!(
        stored,
        StoredLetter { id: id(7), letter: expected, status: Status::Open, edited_from: None, note: None }
    );
    db.sql("update headwater.dead_letters set key = null, value = null, headers = '[]', note = 'n'").await;
    let stored = Letters::of(&db.database).get(id(7)).await.unwrap().unwrap();
    assert_eq!((stored.letter.key, stored.letter.value, stored.letter.headers.len()), (None, None, 0));
    assert_eq!(stored.note.as_deref(), Some("n"));
    assert_eq!(Letters::of(&db.database).get(id(8)).await.unwrap(), None);
}

/// Fails where what is left of a letter is taken for all of it, which a redrive then sends, or every header of ours says so.
#[tokio::test]
async fn a_letter_that_was_cut_is_known_without_its_contents() {
    let mut db = Db::new("letters_beginning").await;
    for (n, header) in [(0, "hw_value_bytes"), (1, "hw_headers_cut"), (2, "hw_attempt"), (3, "ce_id")] {
        letter(&mut db, n, "g", "decode", "open").await;
        let named = format!("[{{\"name\":\"ce_type\",\"text\":\"t\"}},{{\"name\":\"{header}\",\"text\":\"7\"}}]");
        db.sql(&format!("update headwater.dead_letters set headers = '{named}' where origin_offset = {n}")).await;
    }
    let found = pages(&db, &of("g"), false, 9).await;
    assert_eq!(found.iter().map(|letter| letter.is_cut).collect::<Vec<_>>(), [true, true, false, false]);
}

/// Red when a part of the filter is left out, a page repeats or misses letters of one moment, or the other groups' count.
#[tokio::test]
async fn letters_are_found_by_every_part_of_the_filter_and_counted_by_make() {
    let mut db = Db::new("letters_found").await;
    for n in 0..20 {
        let status = if n < 2 { "parked" } else { "open" };
        letter(&mut db, n, "g", if n % 2 == 0 { "decode" } else { "row" }, status).await;
    }
    letter(&mut db, 20, "g", "row", "resolved").await;
    letter(&mut db, 21, "other", "row", "open").await;
    db.sql("update headwater.dead_letters set dead_lettered_at = to_timestamp(1767225605) where origin_offset between 4 and 9")
        .await;
    let letters = Letters::of(&db.database);

    let waiting = LetterFilter { statuses: vec![Status::Open, Status::Parked], ..of("g") };
    assert_eq!(numbers(&pages(&db, &waiting, false, 3).await), (0..20).collect::<Vec<_>>());
    assert_eq!(numbers(&pages(&db, &waiting, true, 3).await), (0..20).rev().collect::<Vec<_>>());
    let since = LetterFilter { since: Some(Time::from_millis(BEGIN + 18_000)), ..of("g") };
    assert_eq!(numbers(&pages(&db, &since, false, 9).await), [18, 19, 20]);
    let kind = LetterFilter { kind: Some("row".to_owned()), statuses: vec![Status::Parked], ..of("g") };
    assert_eq!(numbers(&pages(&db, &kind, false, 9).await), [1]);
    let make = LetterFilter { fingerprint: Some("f-decode".to_owned()), ids: vec![id(4), id(5)], ..of("g") };
    let found = pages(&db, &make, false, 9).await;
    assert_eq!((numbers(&found), found[0].bytes > 8, found[0].attempts), (vec![4], true, 5));

    let (count, until) = letters.selection(&waiting).await.unwrap();
    assert_eq!(count, 20);
    letter(&mut db, 22, "g", "row", "open").await;
    let until = LetterFilter { until, ..waiting };
    assert_eq!(numbers(&pages(&db, &until, false, 9).await).last(), Some(&19), "what comes later is not meant");

    let makes = letters.failure_groups(&of("g"), 9).await.unwrap();
    let counts: Vec<_> = makes.iter().map(|make| (make.kind.as_str(), make.counts.clone())).collect();
    let row = BTreeMap::from([(Status::Open, 10), (Status::Parked, 1), (Status::Resolved, 1)]);
    let decode = BTreeMap::from([(Status::Open, 9), (Status::Parked, 1)]);
    assert_eq!(counts, [("row", row), ("decode", decode)]);
    assert_eq!((makes[0].first.millis(), makes[0].last.millis()), (BEGIN + 1_000, BEGIN + 22_000));
    assert_eq!(letters.failure_groups(&LetterFilter::default(), 2).await.unwrap().len(), 2);
    let waiting = BTreeMap::from([("g".to_owned(), 21), ("other".to_owned(), 1)]);
    assert_eq!(letters.waiting().await.unwrap(), waiting);
}

/// Red when the outcome of one record counts for all, a letter that has changed is sent, or the count is moved here.
#[tokio::test]
async fn a_letter_is_redriven_only_when_its_record_was_sent() {
    let mut db = Db::new("letters_redriven").await;
    for n in 0..5 {
        letter(&mut db, n, "g", "row", "open").await;
    }
    let chosen = pages(&db, &of("g"), false, 9).await;
    db.sql("update headwater.dead_letters set redrive_count = 2 where origin_offset = 3").await;
    db.sql("update headwater.dead_letters set status = 'discarded' where origin_offset = 4").await;
    let letters = Letters::of(&db.database);
    let done = LetterActions::of(&letters).redrive(&chosen, &OPEN, async |letters| {
        assert_eq!(letters.iter().map(|letter| letter.letter.origin.offset).collect::<Vec<_>>(), [0, 1, 2]);
        vec![SendOutcome::Refused("too large".to_owned()), SendOutcome::Sent]
    });
    let done = done.await.unwrap();
    assert_eq!((done.sent, done.passed), (vec![id(1)], vec![id(3), id(4)]));
    assert_eq!((done.refused, done.unsent[0].0), (vec![(id(0), "too large".to_owned())], id(2)));
    for (n, expected) in [(0, "open"), (1, "redriven"), (2, "open"), (3, "open"), (4, "discarded")] {
        assert_eq!(status(&mut db, n).await, expected, "letter {n}");
    }
    assert_eq!(db.number("select sum(redrive_count) from headwater.dead_letters where origin_offset < 3").await, 3);

    let again =
        LetterActions::of(&letters).redrive(&chosen[1..2], &OPEN, async |_| panic!("it is sent twice")).await.unwrap();
    assert_eq!(again.passed, [id(1)], "a second redrive does nothing");
    db.sql("update headwater.dead_letters set status = 'parked' where origin_offset = 0").await;
    assert_eq!(
        LetterActions::of(&letters).redrive(&chosen[..1], &OPEN, async |_| panic!("parked")).await.unwrap().passed,
        [id(0)]
    );
    let named = [Status::Open, Status::Parked];
    let done =
        LetterActions::of(&letters).redrive(&chosen[..1], &named, async |letters| all_sent(letters)).await.unwrap();
    assert_eq!(done.sent, [id(0)]);
}

/// Red when the lock is taken after the record was sent, or a letter in somebody's hands is waited for.
#[tokio::test]
async fn two_who_redrive_at_once_send_each_letter_once() {
    let mut db = Db::new("letters_twice").await;
    for n in 0..10 {
        letter(&mut db, n, "g", "row", "open").await;
    }
    let (chosen, letters) = (pages(&db, &of("g"), false, 99).await, Letters::of(&db.database));
    let (first, second) = (Barrier::new(2), Barrier::new(2));
    let one = LetterActions::of(&letters).redrive(&chosen[..6], &OPEN, async |letters| {
        first.wait().await;
        second.wait().await;
        all_sent(letters)
    });
    let other = async {
        first.wait().await;
        let done = LetterActions::of(&letters).redrive(&chosen, &OPEN, async |letters| all_sent(letters)).await;
        second.wait().await;
        done
    };
    let (one, other) = tokio::join!(one, other);
    let (one, other) = (one.unwrap(), other.unwrap());
    assert_eq!(one.sent, (0..6).map(id).collect::<Vec<_>>());
    assert_eq!((other.sent, other.passed), ((6..10).map(id).collect(), (0..6).map(id).collect()));
}

/// Red when letters are marked before their records are acknowledged.
#[tokio::test]
async fn a_redrive_that_is_cut_off_has_lost_no_letter() {
    let mut db = Db::new("letters_cut").await;
    letter(&mut db, 1, "g", "row", "open").await;
    let (chosen, letters) = (pages(&db, &of("g"), false, 9).await, Letters::of(&db.database));
    let cut = LetterActions::of(&letters).redrive(&chosen, &OPEN, async |_| pending().await);
    assert!(tokio::time::timeout(Duration::from_millis(300), cut).await.is_err());
    assert_eq!(status(&mut db, 1).await, "open");
    let mut done = Vec::new();
    for _ in 0..50 {
        done =
            LetterActions::of(&letters).redrive(&chosen, &OPEN, async |letters| all_sent(letters)).await.unwrap().sent;
        if !done.is_empty() {
            break;
        }
        // The server has yet to notice that the other one has gone.
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(done, [id(1)]);
}

/// Red when what was sent back or edited is given up, a row goes, or a note is overwritten by none.
#[tokio::test]
async fn a_discarded_letter_keeps_its_row() {
    let mut db = Db::new("letters_discarded").await;
    for (n, status) in (0..).zip(Status::ALL) {
        letter(&mut db, n, "g", "row", status.name()).await;
    }
    let (letters, ids) = (Letters::of(&db.database), (0..7).map(id).collect::<Vec<_>>());
    let done = LetterActions::of(&letters).discard(&ids, Some("not ours")).await.unwrap();
    assert_eq!((done.done, done.missing), (vec![id(0), id(1), id(4)], vec![id(6)]));
    let refused = vec![(id(2), Status::Redriven), (id(3), Status::Resolved), (id(5), Status::Edited)];
    assert_eq!(done.refused, refused);
    LetterActions::of(&letters).discard(&ids, None).await.unwrap();
    let kept = "select count(*) from headwater.dead_letters where status = 'discarded' and note = 'not ours'";
    assert_eq!(db.number(kept).await, 3);
    assert_eq!(db.number("select count(*) from headwater.dead_letters where note is null").await, 3);
}

/// Red when the copy is not linked, keeps the old id or origin, or carries delivery headers; or the old row stays open.
#[tokio::test]
async fn an_edited_letter_has_a_linked_copy_at_its_own_place() {
    let mut db = Db::new("letters_edited").await;
    letter(&mut db, 1, "g", "row", "parked").await;
    let letters = Letters::of(&db.database);
    let origin = Origin { partition: TopicPartition::new("g.redrive", 3), offset: 41, timestamp_ms: BEGIN + 5 };
    let mut sent = None;
    let edited = LetterActions::of(&letters).edit(id(1), b"new".to_vec(), async |record| {
        sent = Some(record);
        Ok(origin.clone())
    });
    let edited = edited.await.unwrap();
    let (old, new) = (letters.get(id(1)).await.unwrap().unwrap(), letters.get(edited.id).await.unwrap().unwrap());
    assert_eq!((old.status, new.status, new.edited_from), (Status::Edited, Status::Redriven, Some(id(1))));
    assert_eq!(letters.edited_as(id(1)).await.unwrap(), Some(edited.id));
    let sent = sent.unwrap();
    assert_eq!(sent, old.letter.edited(&id(1).to_string(), b"new".to_vec()));
    let kept: Headers = sent.headers.iter().filter(|(name, _)| !name.starts_with("hw_")).collect();
    let expected = DeadLetter {
        event_id: DeadLetter::edited_id(&id(1).to_string()),
        attempts: 0,
        redrives: 0,
        origin,
        value: Some(b"new".to_vec()),
        headers: kept,
        ..old.letter
    };
    assert_eq!(new.letter, expected);
    assert_eq!(old.letter.value.as_deref(), Some(&b"\0\0\0\0\x07\x02\xff"[..]), "the old one is as it was");
}

/// Red when the letter changes though nothing was sent, one that is closed is edited, or a row that came first is lost.
#[tokio::test]
async fn an_edit_that_cannot_be_changes_nothing() {
    let mut db = Db::new("letters_unedited").await;
    letter(&mut db, 1, "g", "row", "open").await;
    letter(&mut db, 2, "g", "row", "redriven").await;
    letter(&mut db, 3, "g", "row", "open").await;
    let letters = Letters::of(&db.database);
    let never = async |_| panic!("nothing may be sent");
    let unsent = LetterActions::of(&letters).edit(id(1), vec![], async |_| Err("broker down".to_owned())).await;
    assert_eq!(unsent, Err(LetterError::Unsent("broker down".to_owned())));
    assert_eq!(status(&mut db, 1).await, "open");
    assert_eq!(
        LetterActions::of(&letters).edit(id(2), vec![], never).await,
        Err(LetterError::Closed(id(2), Status::Redriven))
    );
    assert_eq!(LetterActions::of(&letters).edit(id(9), vec![], never).await, Err(LetterError::Missing(id(9))));
    let chosen = pages(&db, &LetterFilter { ids: vec![id(1)], ..of("g") }, false, 1).await;
    let (held, busy) = (Barrier::new(2), Barrier::new(2));
    let redrive = LetterActions::of(&letters).redrive(&chosen, &OPEN, async |letters| {
        held.wait().await;
        busy.wait().await;
        all_sent(letters)
    });
    let edit = async {
        held.wait().await;
        let outcome = LetterActions::of(&letters).edit(id(1), vec![], never).await;
        busy.wait().await;
        outcome
    };
    let (redriven, edited) = tokio::join!(redrive, edit);
    assert_eq!((redriven.unwrap().sent, edited), (vec![id(1)], Err(LetterError::Busy(id(1)))));

    // The record has failed, and its letter is there, before its row is.
    let first =
        Origin { partition: TopicPartition::new("events.thing", 2), offset: 3, timestamp_ms: 1_700_000_000_123 };
    letter(&mut db, 4, "g", "row", "open").await;
    let edited = LetterActions::of(&letters).edit(id(4), vec![1], async |_| Ok(first.clone())).await.unwrap();
    assert_eq!(edited.id, id(3), "the row at that place");
    let there = letters.get(id(3)).await.unwrap().unwrap();
    assert_eq!((there.status, there.edited_from, there.letter.attempts), (Status::Open, Some(id(4)), 5));
}

/// Red when a database that `topology apply` has never seen is an outage.
#[tokio::test]
async fn without_the_table_it_is_said_what_makes_it() {
    let db = Db::bare("letters_none").await;
    let error = Letters::of(&db.database).waiting().await.unwrap_err();
    assert!(matches!(&error, PostgresError::Config(why) if why.contains("topology apply")), "{error}");
}
