//! The previews of the response that is arriving: which event each block will belong to.

use postern_model::content::Block;
use postern_model::event::{ContentDelta, Preview, Previewable, PreviewedEvent};
use postern_model::ids::EventId;

use crate::input::Chance;

/// Ids handed out so far. A run of neighbouring text blocks is one message; each block of thinking is one event.
#[derive(Debug, Default)]
pub(crate) struct Previews {
    formed: Vec<Formed>,
}

#[derive(Debug)]
struct Formed {
    kind: Previewable,
    id: EventId,
    /// The response's indices of the blocks in it, in order.
    blocks: Vec<usize>,
}

impl Previews {
    pub(crate) fn thinking(&mut self, index: usize, chance: &mut dyn Chance) -> Vec<Preview> {
        if self.find(index).is_some() {
            return Vec::new();
        }
        vec![self.form(Previewable::Thinking, index, chance)]
    }

    pub(crate) fn text(&mut self, index: usize, text: String, chance: &mut dyn Chance) -> Vec<Preview> {
        if text.is_empty() {
            return Vec::new();
        }
        let mut previews = Vec::new();
        if self.find(index).is_none() && !self.join(index) {
            previews.push(self.form(Previewable::Message, index, chance));
        }
        let formed = self.find(index).expect("formed or joined just above");
        let position = formed.blocks.iter().position(|block| *block == index).unwrap_or(0);
        let delta = ContentDelta::ContentDelta { index: position, content: Block::Text { text } };
        previews.push(Preview::EventDelta { event_id: formed.id.clone(), delta });
        previews
    }

    /// The id that the event with this block was announced under, if it was.
    pub(crate) fn id(&self, kind: Previewable, index: usize) -> Option<EventId> {
        self.find(index).filter(|formed| formed.kind == kind).map(|formed| formed.id.clone())
    }

    fn find(&self, index: usize) -> Option<&Formed> {
        self.formed.iter().find(|formed| formed.blocks.contains(&index))
    }

    /// Puts the block into the message before it, if its neighbour is in one.
    fn join(&mut self, index: usize) -> bool {
        match self.formed.last_mut() {
            Some(last) if last.kind == Previewable::Message && last.blocks.last().is_some_and(|b| b + 1 == index) => {
                last.blocks.push(index);
                true
            }
            _ => false,
        }
    }

    fn form(&mut self, kind: Previewable, index: usize, chance: &mut dyn Chance) -> Preview {
        let id = chance.event_id();
        self.formed.push(Formed { kind, id: id.clone(), blocks: vec![index] });
        Preview::EventStart { event: PreviewedEvent { kind, id } }
    }
}
