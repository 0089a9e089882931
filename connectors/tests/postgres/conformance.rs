//! The committers that write to tables keep what every committer promises.

mod dead_lettering;
mod dead_letters;
mod link;
mod table;

use headwater::spi::conformance::Contents;

use self::link::Link;
use crate::harness::Db;
use headwater_connectors::postgres::{Config, Database};

/// A database of a check's own, and the way to it, which can be cut.
struct TestDatabase {
    db: Db,
    link: Link,
    database: Database,
}

impl TestDatabase {
    async fn new(name: &str) -> Self {
        let db = Db::new(name).await;
        let link = Link::to(&db.url).await;
        let connect_timeout = std::time::Duration::from_secs(2);
        let database = Config { connect_timeout, ..Config::new(link.url()) }.connect().await.unwrap();
        Self { db, link, database }
    }

    /// One text for each effect, with its partition.
    async fn contents(&mut self, query: &str) -> Contents {
        let mut contents = Contents::default();
        let rows: Vec<(i32, String)> =
            sqlx::query_as(sqlx::AssertSqlSafe(query.to_owned())).fetch_all(&mut self.db.conn).await.unwrap();
        for (partition, text) in rows {
            contents.effects.entry(partition).or_default().push(text);
        }
        contents
    }
}
