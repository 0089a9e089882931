//! A table as a kind of sink.

use headwater::{
    EventType, Sink,
    spi::{BoxFuture, Committer, codec::WriterSchema},
};

use super::PostgresSink;
use crate::{
    postgres::Database,
    sinks::connector::{SinkClients, SinkConnector},
};

impl SinkConnector for Sink {
    fn place(&self) -> (&'static str, String) {
        ("table", self.table.clone())
    }

    fn keeps_offsets(&self) -> bool {
        true
    }

    fn problem_of(&self, event: Option<&EventType>) -> Option<String> {
        PostgresSink::problem_of(self, event)
    }

    fn prepare<'a>(
        &'a self,
        database: &'a Database,
        schema: &'a WriterSchema,
        dry_run: bool,
    ) -> BoxFuture<'a, Result<Vec<String>, String>> {
        Box::pin(async move {
            let sql = if dry_run {
                PostgresSink::plan_table(database, self, schema).await
            } else {
                PostgresSink::apply_table(database, self, schema).await
            };
            let lines = |sql: Vec<String>| sql.into_iter().map(|sql| format!("table {}: {sql}", self.table)).collect();
            sql.map(lines).map_err(|error| error.to_string())
        })
    }

    fn committers(&self, group: &str, clients: &SinkClients) -> Result<Vec<Box<dyn Committer>>, String> {
        let sinks = PostgresSink::several(&clients.database, group, self.clone(), clients.connections)
            .map_err(|e| e.to_string())?;
        let one = |sink: PostgresSink| -> Box<dyn Committer> {
            Box::new(sink.with_topic_ids(clients.topic_ids.clone()).with_metrics(clients.metrics.clone()))
        };
        Ok(sinks.into_iter().map(one).collect())
    }
}
