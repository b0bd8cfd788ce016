//! What a build and a launch tell the person who waits for them, as events; a surface prints them (see `contract`: `-----> Step`).

use std::time::Duration;

/// One event.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// A step begins: `-----> Python app detected`.
    Step(String),
    /// A detail of the step under way: seven blanks and the text. May be a line of a tool's own output, already masked.
    Detail(String),
    /// Something the person should know: shown as ` !     `, and nothing stops.
    Warning(String),
    /// A line that the app itself writes while the person waits, already masked. Who follows the app's log sees it there.
    App(String),
    /// What the step under way is busy with, for a progress line on a terminal: `installing 12 packages`. Not kept.
    Busy(String),
    /// The step under way is done and took this long.
    Done(Duration),
}

/// Takes events. Cheap to call from any task or thread.
pub trait Output: Send + Sync {
    /// Takes one event.
    fn emit(&self, event: Event);

    /// A step begins.
    fn step(&self, text: &str) {
        self.emit(Event::Step(text.to_owned()));
    }
    /// A detail.
    fn detail(&self, text: &str) {
        self.emit(Event::Detail(text.to_owned()));
    }
    /// A warning.
    fn warning(&self, text: &str) {
        self.emit(Event::Warning(text.to_owned()));
    }
    /// Progress.
    fn busy(&self, text: &str) {
        self.emit(Event::Busy(text.to_owned()));
    }
}
