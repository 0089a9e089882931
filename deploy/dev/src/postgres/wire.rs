//! As much of PostgreSQL's protocol as it takes to know that the server answers and to make a database.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Protocol 3.0.
const PROTOCOL: i32 = 196_608;
const LIMIT: Duration = Duration::from_secs(10);
/// No message of this exchange is longer than a few hundred bytes.
const MESSAGE_LIMIT: usize = 64 * 1024;
/// `duplicate_object`, as a role that is there is one.
const EXISTS: &str = "42710";
/// `duplicate_database`.
const DATABASE_EXISTS: &str = "42P04";

/// Makes the database unless it is there, and the roles of these statements. `database` and `user` are our own constants,
/// not quoted here.
///
/// # Errors
/// When nobody answers within 10 s, a password is asked for, or the server refuses for another reason than that the
/// database is there.
pub(crate) async fn ensure_database(port: u16, user: &str, database: &str, roles: &[String]) -> Result<()> {
    tokio::time::timeout(LIMIT, exchange(port, user, database, roles))
        .await
        .context("postgres did not answer within 10 s")?
}

async fn exchange(port: u16, user: &str, database: &str, roles: &[String]) -> Result<()> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.context("cannot connect to postgres")?;
    let mut hello = PROTOCOL.to_be_bytes().to_vec();
    hello.extend_from_slice(format!("user\0{user}\0database\0postgres\0\0").as_bytes());
    send(&mut stream, None, &hello).await?;
    until_ready(&mut stream).await?;
    let found = query(&mut stream, &format!("select 1 from pg_database where datname = '{database}'")).await?;
    if found == 0 {
        query(&mut stream, &format!("create database {database}")).await?;
    }
    for role in roles {
        query(&mut stream, role).await?;
    }
    send(&mut stream, Some(b'X'), &[]).await
}

/// How many rows the statement gave.
async fn query(stream: &mut TcpStream, statement: &str) -> Result<usize> {
    send(stream, Some(b'Q'), format!("{statement}\0").as_bytes()).await?;
    until_ready(stream).await
}

/// Reads messages up to `ReadyForQuery`, counting rows; an `ErrorResponse` becomes the error.
async fn until_ready(stream: &mut TcpStream) -> Result<usize> {
    let mut rows = 0;
    loop {
        let kind = stream.read_u8().await?;
        let length = usize::try_from(stream.read_i32().await?)?.saturating_sub(4);
        ensure!(length <= MESSAGE_LIMIT, "postgres sent a message of {length} bytes");
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await?;
        match kind {
            b'Z' => return Ok(rows),
            b'D' => rows += 1,
            b'R' if body != [0; 4] => bail!("postgres asks for a password"),
            b'E' => {
                let text = String::from_utf8_lossy(&body);
                let field =
                    |code: char| text.split('\0').find_map(|field| field.strip_prefix(code)).unwrap_or_default();
                if ![EXISTS, DATABASE_EXISTS].contains(&field('C')) {
                    bail!("postgres refused: {} ({})", field('M'), field('C'));
                }
            }
            _ => {}
        }
    }
}

async fn send(stream: &mut TcpStream, kind: Option<u8>, body: &[u8]) -> Result<()> {
    let mut message: Vec<u8> = kind.into_iter().collect();
    message.extend_from_slice(&i32::try_from(body.len() + 4)?.to_be_bytes());
    message.extend_from_slice(body);
    stream.write_all(&message).await.context("cannot write to postgres")
}
