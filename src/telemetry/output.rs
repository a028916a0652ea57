//! stderr and stdout without waiting for their readers: a bounded queue, and a thread of its own that writes.
//!
//! A container runtime that does not read its end of the pipe would otherwise stop the runtime's thread at 64 KiB of log
//! lines, and the renewals with it.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::{Arc, Condvar, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Capacity of a queue in bytes.
const CAPACITY: usize = 1024 * 1024;
/// Limit for what is left to write at the end of the process.
const FLUSH_TIMEOUT: Duration = Duration::from_millis(500);

/// Log lines, and errors that end the process.
pub static STDERR: LazyLock<Arc<Output>> = LazyLock::new(|| Output::start("stderr", io::stderr()));
/// The dump on SIGUSR1.
pub static STDOUT: LazyLock<Arc<Output>> = LazyLock::new(|| Output::start("stdout", io::stdout()));

#[derive(Debug)]
pub struct Output {
    capacity: usize,
    queue: Mutex<Queue>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Queue {
    texts: VecDeque<Vec<u8>>,
    bytes: usize,
    /// Texts that did not fit, since the start.
    dropped: u64,
    /// The thread writes what it took out.
    writing: bool,
}

impl Output {
    fn new(capacity: usize) -> Self {
        Self { capacity, queue: Mutex::default(), changed: Condvar::new() }
    }

    fn start(name: &'static str, out: impl Write + Send + 'static) -> Arc<Self> {
        let output = Arc::new(Self::new(CAPACITY));
        let writer = output.clone();
        let report = move |dropped| tracing::warn!("{}", dropped_text(name, dropped));
        let run = move || writer.run(out, report);
        if let Err(error) = std::thread::Builder::new().name(name.to_owned()).spawn(run) {
            eprintln!("cannot start the thread that writes to {name}: {error}");
        }
        output
    }

    /// Appends a text, or drops it if the queue is full. Never waits for the reader.
    pub fn push(&self, text: &[u8]) {
        let mut queue = self.lock();
        // A text that is longer than the capacity is kept alone.
        if queue.bytes > 0 && queue.bytes + text.len() > self.capacity {
            queue.dropped += 1;
            return;
        }
        queue.bytes += text.len();
        queue.texts.push_back(text.to_vec());
        self.changed.notify_all();
    }

    /// Waits until everything is written, for half a second at most.
    pub fn flush(&self) {
        self.flush_within(FLUSH_TIMEOUT);
    }

    /// Returns whether everything is written.
    fn flush_within(&self, limit: Duration) -> bool {
        let pending = |queue: &mut Queue| queue.writing || !queue.texts.is_empty();
        let waited = self.changed.wait_timeout_while(self.lock(), limit, pending);
        !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }

    /// The thread. `report` is passed how many texts were dropped since the start, after the texts before them.
    fn run(&self, mut out: impl Write, report: impl Fn(u64)) {
        let mut reported = 0;
        loop {
            let (texts, dropped) = self.take();
            for text in texts {
                // There is no place to report a failure to.
                out.write_all(&text).ok();
            }
            out.flush().ok();
            if dropped > reported {
                report(dropped);
                reported = dropped;
            }
        }
    }

    /// Waits for texts and takes all of them out.
    fn take(&self) -> (VecDeque<Vec<u8>>, u64) {
        let mut queue = self.lock();
        queue.writing = false;
        self.changed.notify_all();
        let waited = self.changed.wait_while(queue, |queue| queue.texts.is_empty());
        let mut queue = waited.unwrap_or_else(PoisonError::into_inner);
        queue.writing = true;
        queue.bytes = 0;
        (std::mem::take(&mut queue.texts), queue.dropped)
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn dropped_text(name: &str, dropped: u64) -> String {
    format!("dropped {dropped} lines for {name} since the start: its reader is too slow")
}

impl Write for &Output {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        self.push(text);
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, PipeReader, pipe};

    use super::*;

    const LINES: usize = 30_000;
    /// Longer than any pause of a loaded machine.
    const LONG: Duration = Duration::from_secs(60);

    fn line(number: usize) -> String {
        format!("{number:>99}\n")
    }

    /// An output with a capacity of ten lines, into a pipe. It reports what it dropped into itself.
    fn piped() -> (Arc<Output>, PipeReader) {
        let (reader, writer) = pipe().unwrap();
        let output = Arc::new(Output::new(1000));
        let thread = output.clone();
        let reports = output.clone();
        let report = move |dropped| reports.push(format!("dropped {dropped}\n").as_bytes());
        std::thread::spawn(move || thread.run(writer, report));
        (output, reader)
    }

    /// With a writer that blocks, this test would not end.
    #[test]
    fn without_a_reader_lines_are_dropped_and_counted() {
        let (output, reader) = piped();
        for number in 0..LINES {
            output.push(line(number).as_bytes());
        }
        assert!(!output.flush_within(Duration::ZERO));
        let read = std::thread::spawn(move || {
            let (mut lines, mut dropped) = (0, 0);
            for line in BufReader::new(reader).lines().map(Result::unwrap) {
                match line.strip_prefix("dropped ") {
                    Some(total) => dropped = total.parse().unwrap(),
                    None => lines += 1,
                }
                if lines + dropped >= LINES {
                    break;
                }
            }
            (lines, dropped)
        });
        let (lines, dropped) = read.join().unwrap();
        // A pipe holds 16 pages.
        assert!(dropped > 10_000, "{lines} lines, {dropped} dropped");
    }

    #[test]
    fn a_flush_waits_until_all_is_written() {
        let (output, reader) = piped();
        for number in 0..10 {
            output.push(line(number).as_bytes());
        }
        assert!(output.flush_within(LONG));
        let read: Vec<String> = BufReader::new(reader).lines().take(10).map(Result::unwrap).collect();
        assert_eq!(read[9], line(9).trim_end());
        assert!(output.flush_within(Duration::ZERO), "nothing is left");
    }

    #[test]
    fn a_text_that_is_longer_than_the_capacity_is_kept_alone() {
        let output = Output::new(1000);
        for length in [2000, 1] {
            output.push(&vec![b'x'; length]);
        }
        let (texts, dropped) = output.take();
        assert_eq!((texts.iter().map(Vec::len).collect::<Vec<_>>(), dropped), (vec![2000], 1));
    }
}
