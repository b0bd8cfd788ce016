//! The lines of one file from the last to the first, read in blocks.

use dozen_core::logs::LogLine;
use std::fs::File;
use std::os::unix::fs::FileExt;

const BLOCK: usize = 64 * 1024;
/// A line of ours is never as long: what is, is no line.
const LONGEST: usize = 256 * 1024;

pub(super) struct Backward {
    file: File,
    /// All before this is unread.
    at: u64,
    /// Read and not given out; begins at `at`, ends with a line's end.
    rest: Vec<u8>,
}

impl Backward {
    /// From `end`, where a line ends.
    pub(super) fn new(file: File, end: u64) -> Self {
        Self { file, at: end, rest: Vec::new() }
    }

    /// The line before. Torn and foreign ones are passed over.
    pub(super) fn next(&mut self) -> std::io::Result<Option<LogLine>> {
        loop {
            let before = self.rest.len().saturating_sub(1);
            let start = match self.rest[..before].iter().rposition(|b| *b == b'\n') {
                Some(end) => end + 1,
                None if self.at > 0 => {
                    self.load()?;
                    continue;
                }
                None if self.rest.is_empty() => return Ok(None),
                None => 0,
            };
            let line = LogLine::decode(&self.rest[start..]);
            self.rest.truncate(start);
            if line.is_some() {
                return Ok(line);
            }
        }
    }

    fn load(&mut self) -> std::io::Result<()> {
        if self.rest.len() > LONGEST {
            self.rest = b"\n".to_vec();
        }
        let size = usize::try_from(self.at).unwrap_or(BLOCK).min(BLOCK);
        let mut block = vec![0; size];
        self.at -= size as u64;
        self.file.read_exact_at(&mut block, self.at)?;
        block.append(&mut self.rest);
        self.rest = block;
        Ok(())
    }
}
