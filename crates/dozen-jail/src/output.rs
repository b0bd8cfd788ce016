//! What the app says, on its way through the jail: two pipes, one segment file, and what the driver is told of it.
//!
//! **Invariant:** the driver is told of lines at most every [`WROTE_PAUSE`], and not while it does not listen; the lines themselves do not wait.

use crate::Failure;
use crate::control::Control;
use crate::pump::Pump;
use crate::segment::{Limits, Segment};
use dozen_core::processes::jail::{FromJail, JailLog};
use jiff::Timestamp;
use rustix::fs::{Gid, Uid, fchown};
use rustix::io::ioctl_fionbio;
use rustix::pipe::{PipeFlags, fcntl_setpipe_size, pipe_with};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

/// So many paths that could not be written are told of.
const REFUSED: usize = 5;
/// Between two `Wrote`s.
const WROTE_PAUSE: Duration = Duration::from_millis(10);
/// Between two tries to tell of dropped lines.
const SETTLE_PAUSE: Duration = Duration::from_secs(1);
/// What was said before the end is taken for so long.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// So much may wait in a pipe while the jail is busy, where the host's limit allows.
const PIPE: usize = 1024 * 1024;

pub(crate) struct Log {
    segment: Segment,
    pumps: [Pump; 2],
    /// Whether lines were written of which the driver was not told.
    news: bool,
    told_at: Instant,
    settle_at: Instant,
    /// The refused writes that the driver was told of.
    refused: Vec<String>,
}

/// Opens the folder of segments, while it is seen.
pub(crate) fn segment(log: &JailLog, instance: &str) -> Result<Segment, Failure> {
    let limits = Limits { bytes: log.segment_bytes, segments: log.segments };
    let attempt = format!("open the log folder {}", log.folder.display());
    Segment::open(&log.folder, instance, &log.release, limits).map_err(Failure::of(&attempt))
}

impl Log {
    /// Makes the pipes; answers the program's ends of standard output and standard error.
    pub(crate) fn begin(segment: Segment, instance: &str, user: Option<(u32, u32)>) -> Result<(Self, (OwnedFd, OwnedFd)), Failure> {
        let broken = Failure::of("make the log pipes");
        let (out, out_end) = pipe_with(PipeFlags::CLOEXEC).map_err(&broken)?;
        let (err, err_end) = pipe_with(PipeFlags::CLOEXEC).map_err(&broken)?;
        for pipe in [&out, &err] {
            // Programs open /dev/stdout by its name, which asks for the pipe's owner.
            if let Some((uid, gid)) = user {
                fchown(pipe, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid))).map_err(&broken)?;
            }
            ioctl_fionbio(pipe, true).map_err(&broken)?;
            // Refused beyond the user's share of pipe memory; the usual 64 KiB do too.
            let _ = fcntl_setpipe_size(pipe, PIPE);
        }
        let (pumps, now) = ([Pump::new(out, instance), Pump::new(err, instance)], Instant::now());
        Ok((Self { segment, pumps, news: false, told_at: now, settle_at: now, refused: Vec::new() }, (out_end, err_end)))
    }

    /// What is to be read.
    pub(crate) fn pipes(&self) -> impl Iterator<Item = &OwnedFd> {
        self.pumps.iter().filter_map(|pump| pump.pipe.as_ref())
    }

    /// When there is something to do though nothing was said.
    pub(crate) fn due(&self, control: &Control) -> Option<Instant> {
        let tell = (self.news && control.idle()).then(|| self.told_at + WROTE_PAUSE);
        tell.into_iter().chain(self.segment.owes().then_some(self.settle_at)).min()
    }

    /// Writes what has come, and tells of it.
    pub(crate) fn turn(&mut self, control: &mut Control) {
        for pump in &mut self.pumps {
            self.news |= pump.turn(&mut self.segment);
        }
        self.tell_refused(control);
        let now = Instant::now();
        if self.news && control.idle() && now >= self.told_at + WROTE_PAUSE {
            control.say(FromJail::Wrote);
            (self.news, self.told_at) = (false, now);
        }
        if self.segment.owes() && now >= self.settle_at {
            self.news |= self.segment.settle(Timestamp::now());
            self.settle_at = now + SETTLE_PAUSE;
        }
    }

    /// Writes the rest. All writers are gone, so the pipes end; unless a descriptor was handed to somebody outside, who may write for ever.
    pub(crate) fn end(&mut self, control: &mut Control) {
        let limit = Instant::now() + LAST_WORDS;
        for pump in &mut self.pumps {
            while pump.turn(&mut self.segment) && Instant::now() < limit {}
            pump.end(&mut self.segment);
        }
        self.segment.settle(Timestamp::now());
        self.tell_refused(control);
        control.say(FromJail::Wrote);
    }

    /// Each path once, and no more than [`REFUSED`]: an app may try again for ever.
    fn tell_refused(&mut self, control: &mut Control) {
        for path in self.pumps.iter_mut().flat_map(|pump| pump.refused.drain(..)) {
            if self.refused.len() < REFUSED && !self.refused.contains(&path) {
                self.refused.push(path.clone());
                control.say(FromJail::Refused { path });
            }
        }
    }
}
