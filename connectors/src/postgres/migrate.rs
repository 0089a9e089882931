//! Headwater's own tables: schema `headwater`, by migrations that are part of the binary.

use std::{borrow::Cow, time::Instant};

use sqlx::{
    AssertSqlSafe,
    migrate::{Migration as SqlMigration, MigrationType},
};

use super::{
    database::{Database, session::Transaction},
    error::PostgresError,
};

const SCHEMA: &str = "headwater";
/// Which migrations have run, as sqlx's own migrator keeps it.
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
    let pending = database.transaction(async |tx| pending(tx).await).await?;
    Ok(pending.iter().map(shown).collect())
}

/// Runs the migrations that have not run yet, all or none of them, and says which. Two at once do not disturb each other, and
/// where nothing is to do no more rights are needed than to read.
///
/// # Errors
/// As [`pending_migrations`].
pub async fn migrate(database: &Database) -> Result<Vec<Migration>, PostgresError> {
    let run = database.transaction(async |tx| {
        if pending(tx).await?.is_empty() {
            return Ok(Vec::new());
        }
        run(tx).await
    });
    run.await
}

/// Runs them, behind the transaction's own lock: sqlx's migrator takes one of a session, which a pooler does not keep.
async fn run(tx: &mut Transaction<'_>) -> Result<Vec<Migration>, PostgresError> {
    let failed = |error: sqlx::Error| PostgresError::Outage(format!("cannot migrate the schema {SCHEMA}: {error}"));
    let lock = "select pg_advisory_xact_lock(hashtextextended($1, 0))";
    sqlx::query(lock).bind("headwater migrations").execute(&mut *tx).await.map_err(failed)?;
    // Somebody else may have run them meanwhile.
    let pending = pending(tx).await?;
    if !pending.is_empty() {
        let ledger = format!(
            "create schema if not exists {SCHEMA}; create table if not exists {LEDGER} (version bigint primary key, \
             description text not null, installed_on timestamptz not null default now(), success boolean not null, \
             checksum bytea not null, execution_time bigint not null)"
        );
        sqlx::raw_sql(AssertSqlSafe(ledger)).execute(&mut *tx).await.map_err(failed)?;
    }
    for migration in &pending {
        let begun = Instant::now();
        sqlx::raw_sql(migration.sql.clone()).execute(&mut *tx).await.map_err(failed)?;
        let done = format!(
            "insert into {LEDGER} (version, description, success, checksum, execution_time) values ($1, $2, true, $3, $4)"
        );
        sqlx::query(AssertSqlSafe(done))
            .bind(migration.version)
            .bind(&*migration.description)
            .bind(&*migration.checksum)
            .bind(i64::try_from(begun.elapsed().as_nanos()).unwrap_or(i64::MAX))
            .execute(&mut *tx)
            .await
            .map_err(failed)?;
    }
    Ok(pending.iter().map(shown).collect())
}

fn migrations() -> [SqlMigration; 2] {
    let migration = |version, description: &'static str, sql: &'static str| {
        let sql = sqlx::SqlSafeStr::into_sql_str(sql);
        SqlMigration::new(version, Cow::Borrowed(description), MigrationType::Simple, sql, false)
    };
    [
        migration(1, "offsets of sinks", include_str!("../../migrations/0001_consumer_offsets.sql")),
        migration(2, "dead letters", include_str!("../../migrations/0002_dead_letters.sql")),
    ]
}

async fn pending(tx: &mut Transaction<'_>) -> Result<Vec<SqlMigration>, PostgresError> {
    // `to_regclass` would answer from what this session knew before it waited for the lock.
    let there = "select exists (select from pg_class c join pg_namespace n on n.oid = c.relnamespace \
                 where n.nspname || '.' || c.relname = $1)";
    let (ledger,): (bool,) = sqlx::query_as(there).bind(LEDGER).fetch_one(&mut *tx).await?;
    let applied: Vec<(i64, Vec<u8>)> = if ledger {
        let sql = format!("select version, checksum from {LEDGER} order by version");
        let applied = sqlx::query_as(AssertSqlSafe(sql)).fetch_all(&mut *tx).await;
        applied.map_err(|error| PostgresError::Outage(format!("cannot read {LEDGER}: {error}")))?
    } else {
        Vec::new()
    };
    let mut pending = Vec::new();
    for migration in migrations() {
        match applied.iter().find(|(version, _)| *version == migration.version) {
            Some((_, checksum)) if *checksum == *migration.checksum => {}
            Some(_) => {
                return Err(PostgresError::Config(format!(
                    "migration {} of the schema {SCHEMA} differs from the one that has run: use the program that made it, or a new database",
                    migration.version
                )));
            }
            None => pending.push(migration),
        }
    }
    Ok(pending)
}

fn shown(migration: &SqlMigration) -> Migration {
    Migration {
        version: migration.version,
        description: migration.description.to_string(),
        sql: migration.sql.as_str().to_owned(),
    }
}
