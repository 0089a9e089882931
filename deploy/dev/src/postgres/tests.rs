//! A server from fetched binaries, also where one is installed.

use std::os::unix::fs::PermissionsExt;

use sqlx::{Connection, Executor, PgConnection};

use super::*;

/// A data folder that goes with the test, also with what lies outside of it.
struct DataFolder(tempfile::TempDir);

impl Drop for DataFolder {
    fn drop(&mut self) {
        let _ = remove(self.0.path());
    }
}

/// Executes a statement and tells the server's major version.
async fn major_after(postgres: &Postgres, statement: &'static str) -> u32 {
    let mut connection = PgConnection::connect(&postgres.url()).await.unwrap();
    connection.execute(statement).await.unwrap();
    let version: String = sqlx::query_scalar("show server_version_num").fetch_one(&mut connection).await.unwrap();
    connection.close().await.unwrap();
    version.parse::<u32>().unwrap() / 10_000
}

/// Red when the newest installed server is taken for a cluster of another version, or, as root, when the archive
/// is unpacked under a strict umask.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_from_fetched_binaries_keeps_its_data_although_another_is_installed() {
    let data = DataFolder(tempfile::tempdir().unwrap());
    let path = data.0.path();
    let cache = tempfile::tempdir().unwrap();
    std::fs::set_permissions(cache.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let user = User::unprivileged().unwrap();
    let fetched = download::fetch(cache.path()).await.unwrap();
    let binaries = download::resolve(cache.path(), user).await.unwrap();
    assert_eq!(binaries, fetched.join("bin"));
    let home = data_directory::choose(path, user).await.unwrap();
    let mut ports = Ports::load(path);
    let mut postgres = Postgres::launch_from(binaries, user, home, true, None, &mut ports).await.unwrap();
    let version = major_after(&postgres, "create table kept as select 1 as one").await;
    assert!(download::run(&version.to_string()), "{version}");
    postgres.stop().await.unwrap();

    let mut postgres = Postgres::launch(path, cache.path(), true, None, &mut ports).await.unwrap();
    assert_eq!(major_after(&postgres, "select one from kept").await, version);
    postgres.stop().await.unwrap();
}

/// Red when the first binaries that are found are taken whatever the cluster is.
#[tokio::test]
async fn a_cluster_of_a_version_that_is_nowhere_says_what_to_install() {
    let home = tempfile::tempdir().unwrap();
    std::fs::create_dir(home.path().join("cluster")).unwrap();
    std::fs::write(home.path().join("cluster/PG_VERSION"), "9\n").unwrap();
    let refused = binaries(home.path(), home.path(), None).await.unwrap_err().to_string();
    assert!(refused.contains("made by PostgreSQL 9") && refused.contains("postgresql-9"), "{refused}");
}
