//! The spans of one trace as a tree.

use std::fmt;

use super::Span;

/// What has come of one trace.
#[derive(Clone, Debug)]
pub struct Trace {
    /// Its id in hex.
    pub id: String,
    /// Its spans, by the time of their begin.
    pub spans: Vec<Span>,
}

impl Trace {
    pub(super) fn new(id: &str, mut spans: Vec<Span>) -> Self {
        spans.sort_by_key(|span| span.time);
        Self { id: id.to_owned(), spans }
    }

    /// The spans of this name.
    pub fn named(&self, name: &str) -> Vec<&Span> {
        self.spans.iter().filter(|span| span.name == name).collect()
    }

    /// The spans whose parent has this id.
    pub fn children(&self, span_id: &str) -> Vec<&Span> {
        self.spans.iter().filter(|span| span.parent == span_id).collect()
    }

    /// The spans whose parent is not in the trace.
    pub fn roots(&self) -> Vec<&Span> {
        self.spans.iter().filter(|span| self.spans.iter().all(|other| other.span_id != span.parent)).collect()
    }

    /// The tree by parent: a line a span, its children below it, by name; `!` is behind one that has failed.
    pub fn outline(&self) -> String {
        let mut out = String::new();
        self.draw(self.roots(), 0, &mut out);
        out
    }

    fn draw(&self, mut spans: Vec<&Span>, depth: usize, out: &mut String) {
        spans.sort_by_key(|span| (&span.name, span.get("messaging.consumer.group.name").as_str(), span.time));
        for span in spans {
            let failed = if span.error.is_some() { " !" } else { "" };
            let group = span.get("messaging.consumer.group.name").as_str().map(|group| format!(" [{group}]"));
            let group = group.unwrap_or_default();
            out.push_str(&format!("{:width$}{}{group}{failed}\n", "", span.name, width = 2 * depth));
            self.draw(self.children(&span.span_id), depth + 1, out);
        }
    }
}

impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "trace {} of {} spans:", self.id, self.spans.len())?;
        f.write_str(&self.outline())
    }
}
