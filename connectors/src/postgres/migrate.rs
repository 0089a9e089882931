//! Headwater's own tables: schema `headwater`, by migrations that are part of the binary.

use std::borrow::Cow;

use sqlx::{
    PgConnection,
    migrate::{Migrate, MigrationType, Migrator},
};

use super::{config::Database, error::PostgresError};

const SCHEMA: &str = "headwater";
/// Which migrations have run.
const LEDGER: &str = "headwater._sqlx_migrations";

/// A change to Headwater's own tables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Migration {
    /// Its number; they run in this order.
    pub version: i64,
    /// What it does.
    pub description: String,
    /// The SQL.
    pub sql: String,
}

/// The migrations that have not run yet, in order: what [`migrate`] would run.
///
/// # Errors
/// [`PostgresError::Outage`] when the server does not answer; [`PostgresError::Config`] when a migration that has run
/// differs from the one of this binary.
pub async fn pending_migrations(database: &Database) -> Result<Vec<Migration>, PostgresError> {
    database.with(async |conn| pending(conn).await).await
}

/// Runs the migrations that have not run yet and says which. Two at once do not disturb each other, and where nothing is
/// to do no more rights are needed than to read.
///
/// # Errors
/// As [`pending_migrations`].
pub async fn migrate(database: &Database) -> Result<Vec<Migration>, PostgresError> {
    let run = database.with(async |conn| {
        let pending = pending(conn).await?;
        if !pending.is_empty() {
            let outcome = migrator().run_direct(None, &mut **conn, false).await;
            // sqlx keeps its advisory lock when a migration fails: `Outage` drops the connection, and the lock with it.
            outcome.map_err(|e| PostgresError::Outage(format!("cannot migrate the schema {SCHEMA}: {e}")))?;
        }
        Ok(pending)
    });
    run.await
}

fn migrator() -> Migrator {
    let migration = |version, description: &'static str, sql: &'static str| {
        let sql = sqlx::SqlSafeStr::into_sql_str(sql);
        sqlx::migrate::Migration::new(version, Cow::Borrowed(description), MigrationType::Simple, sql, false)
    };
    let mut migrator = Migrator::with_migrations(vec![
        migration(1, "offsets of sinks", include_str!("../../migrations/0001_consumer_offsets.sql")),
        migration(2, "dead letters", include_str!("../../migrations/0002_dead_letters.sql")),
    ]);
    migrator.dangerous_set_table_name(LEDGER);
    migrator.create_schema(SCHEMA);
    migrator
}

async fn pending(conn: &mut PgConnection) -> Result<Vec<Migration>, PostgresError> {
    let (ledger,): (bool,) =
        sqlx::query_as("select to_regclass($1) is not null").bind(LEDGER).fetch_one(&mut *conn).await?;
    let applied = if ledger {
        conn.list_applied_migrations(LEDGER)
            .await
            .map_err(|e| PostgresError::Outage(format!("cannot read {LEDGER}: {e}")))?
    } else {
        Vec::new()
    };
    let mut pending = Vec::new();
    for migration in migrator().iter() {
        match applied.iter().find(|a| a.version == migration.version) {
            Some(a) if a.checksum == migration.checksum => {}
            Some(_) => {
                return Err(PostgresError::Config(format!(
                    "migration {} of the schema {SCHEMA} differs from the one that has run: use the program that made it, or a new database",
                    migration.version
                )));
            }
            None => pending.push(Migration {
                version: migration.version,
                description: migration.description.to_string(),
                sql: migration.sql.as_str().to_owned(),
            }),
        }
    }
    Ok(pending)
}
