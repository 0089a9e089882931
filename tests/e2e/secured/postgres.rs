//! The database that asks who calls, and the transaction pooler before it.

mod denials;
mod pooler;
mod rotation;

use headwater_connectors::postgres::{Config, PostgresError};
use headwater_tests::Space;
use sqlx::AssertSqlSafe;

use super::secured;

/// A test's own space before these servers.
async fn space(name: &str) -> Space {
    Space::new(&secured().stack, name).await
}

/// Who connects by this is let in, or why not.
async fn connect(config: &Config) -> Result<(), PostgresError> {
    config.connect().await.map(drop)
}

/// Runs SQL as who may do everything.
async fn sql(space: &Space, text: &str) {
    sqlx::raw_sql(AssertSqlSafe(text.to_owned())).execute(&space.pool).await.expect("it runs");
}

/// Pairs as a process takes them.
fn env(pairs: &[(String, String)]) -> Vec<(&str, &str)> {
    pairs.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect()
}
