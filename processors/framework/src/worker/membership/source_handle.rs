//! The source as the worker speaks to it: of partitions that are read from nowhere it hears nothing.

use std::sync::Arc;

use crate::{
    ports::{BoxFuture, Control, Source, SourceEvent},
    wire::record::TopicPartition,
};

pub(crate) struct SourceHandle {
    source: Box<dyn Source>,
    /// What the partitions of records that wait name as their topic.
    waiting: Option<Arc<str>>,
}

impl SourceHandle {
    pub(crate) fn new(source: Box<dyn Source>, waiting: Option<Arc<str>>) -> Self {
        Self { source, waiting }
    }

    pub(crate) fn next(&mut self, records: bool) -> BoxFuture<'_, SourceEvent> {
        self.source.next(records)
    }

    pub(crate) fn control(&mut self, control: Control) {
        if let Some(control) = self.of_source(control) {
            self.source.control(control);
        }
    }

    fn of_source(&self, control: Control) -> Option<Control> {
        let Some(waiting) = &self.waiting else { return Some(control) };
        let read = |id: &TopicPartition| id.topic != *waiting;
        let of = |ids: Vec<TopicPartition>| {
            Some(ids.into_iter().filter(|id| read(id)).collect()).filter(|ids: &Vec<_>| !ids.is_empty())
        };
        match control {
            Control::Begin { ref partition, .. } => read(partition).then_some(control),
            Control::Pause(ids) => of(ids).map(Control::Pause),
            Control::Resume(ids) => of(ids).map(Control::Resume),
            Control::Released(ids) => of(ids).map(Control::Released),
            Control::Note(notes) => {
                let notes: Vec<_> = notes.into_iter().filter(|(id, _)| read(id)).collect();
                (!notes.is_empty()).then_some(Control::Note(notes))
            }
            Control::Commit(_) | Control::Close => Some(control),
        }
    }
}
