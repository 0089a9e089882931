//! The node's three files: `server.properties`, `log4j2.properties`, `cluster.id`.

use std::path::Path;

use anyhow::{Context, Result};

use crate::ports::random;

use super::security::SecuredListeners;

/// What a node alone needs (every replication factor is 1), and what makes first use quick.
const COMMON: &str = "\
process.roles=broker,controller
node.id=1
controller.listener.names=CONTROLLER
inter.broker.listener.name=CLIENT
auto.create.topics.enable=false
num.partitions=6
default.replication.factor=1
min.insync.replicas=1
offsets.topic.replication.factor=1
offsets.topic.num.partitions=10
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=10
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
share.coordinator.state.topic.num.partitions=4
group.initial.rebalance.delay.ms=0
log.cleaner.dedupe.buffer.size=16777216
num.recovery.threads.per.data.dir=2
";

/// Short limits, so that a test need not wait for a dead member or transaction, nor for what retention deletes.
const TESTS: &str = "\
group.min.session.timeout.ms=500
log.retention.check.interval.ms=1000
log.initial.task.delay.ms=1000
transaction.abort.timed.out.transaction.cleanup.interval.ms=500
";

const LOG4J2: &str = "\
status=error
rootLogger.level=info
rootLogger.appenderRef.file.ref=File
appender.file.type=RollingFile
appender.file.name=File
appender.file.fileName=@HOME@/server.log
appender.file.filePattern=@HOME@/server.log.%i
appender.file.layout.type=PatternLayout
appender.file.layout.pattern=%d{ISO8601} %p %c{1}: %m%n
appender.file.policies.type=Policies
appender.file.policies.size.type=SizeBasedTriggeringPolicy
appender.file.policies.size.size=10MB
appender.file.strategy.type=DefaultRolloverStrategy
appender.file.strategy.max=3
logger.state.name=state.change.logger
logger.state.level=warn
logger.config.name=org.apache.kafka.common.config.AbstractConfig
logger.config.level=warn
";

/// Writes `server.properties` and `log4j2.properties` into `home` for these ports.
///
/// # Errors
/// When a file cannot be written, or one that a secured listener needs cannot be read.
pub(crate) fn write(
    home: &Path,
    port: u16,
    controller: u16,
    secured: Option<&SecuredListeners>,
    for_tests: bool,
) -> Result<()> {
    let mut text = COMMON.to_owned();
    if for_tests {
        text.push_str(TESTS);
    }
    let (mut listeners, mut advertised, mut protocols) = (String::new(), String::new(), String::new());
    for (name, protocol, port) in secured.into_iter().flat_map(SecuredListeners::all) {
        listeners.push_str(&format!(",{name}://127.0.0.1:{port}"));
        // By name: that is what a certificate is checked against.
        advertised.push_str(&format!(",{name}://localhost:{port}"));
        protocols.push_str(&format!(",{name}:{protocol}"));
    }
    text.push_str(&format!(
        "listeners=CLIENT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}{listeners}\n\
         advertised.listeners=CLIENT://127.0.0.1:{port}{advertised}\n\
         listener.security.protocol.map=CLIENT:PLAINTEXT,CONTROLLER:PLAINTEXT{protocols}\n\
         controller.quorum.voters=1@127.0.0.1:{controller}\n\
         log.dirs={}\n",
        escape(&home.join("data"))
    ));
    if let Some(secured) = secured {
        text.push_str(&secured.properties(home)?);
    }
    let logging = LOG4J2.replace("@HOME@", &escape(home));
    for (name, content) in [("server.properties", text), ("log4j2.properties", logging)] {
        let file = home.join(name);
        std::fs::write(&file, content).with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(())
}

/// The cluster's id: 16 random bytes in base64url, made once and kept in `cluster.id`.
///
/// # Errors
/// When it can be neither read nor written.
pub(crate) fn cluster_id(home: &Path) -> Result<String> {
    let file = home.join("cluster.id");
    if let Ok(id) = std::fs::read_to_string(&file)
        && id.len() == 22
    {
        return Ok(id);
    }
    let mut bytes = random::<16>()?;
    // A first character of `-` would be taken for an option.
    bytes[0] &= 0x7f;
    let id = base64url(&bytes);
    crate::endpoints::replace(&file, id.as_bytes()).with_context(|| format!("cannot write {}", file.display()))?;
    Ok(id)
}

fn base64url(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let character = |bits: u32| char::from(ALPHABET[(bits & 63) as usize]);
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let group = (0..3).fold(0, |group, i| group << 8 | u32::from(chunk.get(i).copied().unwrap_or(0)));
        text.extend((0..=chunk.len()).map(|i| character(group >> (18 - 6 * i))));
    }
    text
}

/// In a properties file a backslash begins an escape, and what is not ASCII must be one: Java reads the file as Latin-1.
pub(super) fn escape(path: &Path) -> String {
    let mut out = String::new();
    for unit in path.display().to_string().encode_utf16() {
        match u8::try_from(unit) {
            Ok(b'\\') => out.push_str("\\\\"),
            Ok(byte @ b' '..=b'~') => out.push(char::from(byte)),
            _ => out.push_str(&format!("\\u{unit:04x}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Red when the last, partial group is padded or cut by one character.
    #[test]
    fn sixteen_bytes_are_twenty_two_characters_of_base64url() {
        assert_eq!(base64url(&[0xff; 16]), "_____________________w");
        assert_eq!(base64url(b"0123456789abcdef"), "MDEyMzQ1Njc4OWFiY2RlZg");
    }

    /// Red when Java, which reads Latin-1, would find another folder: letters written as they are.
    #[test]
    fn a_folder_of_any_name_can_be_written_down() {
        assert_eq!(escape(Path::new("/tmp/Größe 漢😀\\a")), "/tmp/Gr\\u00f6\\u00dfe \\u6f22\\ud83d\\ude00\\\\a");
    }

    /// Red when the id is made anew each time.
    #[test]
    fn keeps_the_cluster_id() {
        let home = tempfile::tempdir().unwrap();
        let id = cluster_id(home.path()).unwrap();
        assert_eq!(id.len(), 22);
        assert_eq!(cluster_id(home.path()).unwrap(), id);
    }
}
