//! A span as a back end shows it.

use std::{collections::BTreeMap, sync::Arc};

use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{AnyValue, KeyValue, any_value::Value},
    trace::v1::{Span as Sent, span::SpanKind, status::StatusCode},
};
use serde_json::Value as Json;

/// What a span says its work is.
pub type Kind = SpanKind;

/// Attributes by name.
type Attributes = BTreeMap<String, Json>;

/// One span; ids in hex.
#[derive(Clone, Debug)]
pub struct Span {
    /// The id of its trace.
    pub trace_id: String,
    /// Its own id.
    pub span_id: String,
    /// The id of its parent, empty for one that begins a trace.
    pub parent: String,
    /// Its name.
    pub name: String,
    /// Its kind.
    pub kind: Kind,
    /// Begin and end, nanoseconds since the epoch.
    pub time: (u64, u64),
    /// What it says about itself.
    pub attributes: Attributes,
    /// The spans that it links to: ids of trace and span.
    pub links: Vec<(String, String)>,
    /// The message of its failure, where it has failed.
    pub error: Option<String>,
    /// What its process says about itself.
    pub resource: Arc<Attributes>,
}

impl Span {
    /// An attribute's value; null when there is none.
    pub fn get(&self, name: &str) -> &Json {
        self.attributes.get(name).unwrap_or(&Json::Null)
    }
}

/// The spans of a request.
pub(super) fn read(request: ExportTraceServiceRequest) -> impl Iterator<Item = Span> {
    request.resource_spans.into_iter().flat_map(|of_resource| {
        let resource = Arc::new(attributes(of_resource.resource.unwrap_or_default().attributes));
        let spans = of_resource.scope_spans.into_iter().flat_map(|of_scope| of_scope.spans);
        spans.map(move |sent| read_one(sent, resource.clone()))
    })
}

fn read_one(sent: Sent, resource: Arc<Attributes>) -> Span {
    let kind = sent.kind();
    let error = sent.status.filter(|status| status.code() == StatusCode::Error).map(|status| status.message);
    Span {
        trace_id: hex(&sent.trace_id),
        span_id: hex(&sent.span_id),
        parent: hex(&sent.parent_span_id),
        name: sent.name,
        kind,
        time: (sent.start_time_unix_nano, sent.end_time_unix_nano),
        attributes: attributes(sent.attributes),
        links: sent.links.iter().map(|link| (hex(&link.trace_id), hex(&link.span_id))).collect(),
        error,
        resource,
    }
}

fn attributes(sent: Vec<KeyValue>) -> Attributes {
    sent.into_iter().map(|pair| (pair.key, pair.value.map_or(Json::Null, json))).collect()
}

fn json(value: AnyValue) -> Json {
    match value.value {
        Some(Value::StringValue(text)) => text.into(),
        Some(Value::BoolValue(yes)) => yes.into(),
        Some(Value::IntValue(number)) => number.into(),
        Some(Value::DoubleValue(number)) => number.into(),
        Some(Value::BytesValue(bytes)) => hex(&bytes).into(),
        Some(Value::ArrayValue(array)) => array.values.into_iter().map(json).collect(),
        Some(Value::KvlistValue(list)) => attributes(list.values).into_iter().collect(),
        Some(Value::StringValueStrindex(_)) | None => Json::Null,
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
