//! A letter that was cut, and its whole record from where that first stood, while its topic holds it.

use headwater::{
    Origin,
    spi::{DeadLetter, Record},
};
use headwater_connectors::kafka::{KafkaConfig, KafkaError, record_at};

/// Why the whole record is not there.
#[derive(Debug)]
pub(super) enum SourceRecordError {
    /// It is gone, or we may not read it.
    Never(String),
    /// The cluster does not answer.
    Outage(String),
}

/// What stands where a letter of this group first stood. This may take half a minute: nobody is to wait for it meanwhile.
pub(super) async fn record(kafka: &KafkaConfig, group: &str, origin: &Origin) -> Result<Record, SourceRecordError> {
    match record_at(kafka, group, &origin.partition, origin.offset).await {
        Ok(Some(record)) => Ok(record),
        Ok(None) => Err(SourceRecordError::Never("the record is not there any more".to_owned())),
        Err(KafkaError::Outage(why) | KafkaError::Credentials(why)) => Err(SourceRecordError::Outage(why)),
        Err(KafkaError::Refused(why) | KafkaError::Config(why)) => Err(SourceRecordError::Never(why)),
    }
}

/// What a letter lacks, and why that cannot be had.
pub(super) fn lacks(letter: &DeadLetter, why: &str) -> String {
    let (origin, cut) = (&letter.origin, letter.cut().map(|cut| cut.to_string()).unwrap_or_default());
    format!("{cut}, and it cannot be fetched whole from {} offset {}: {why}", origin.partition, origin.offset)
}
