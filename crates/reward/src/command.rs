//! `command`: a program of the user's that scores generations, started once.
//!
//! It reads JSON objects, one a line, `{"prompt": …, "completion": …, "tokens": […]}`, and prints a number a line, in the
//! same order, each line flushed. Its input ends when no more will come.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::error::parameter;
use crate::{AnyReward, Error, Reward, Sample};

/// A line that is longer is no number.
const LINE_BYTES: u64 = 4096;
/// Of what the command says on standard error, an error repeats the end.
const TAIL_BYTES: usize = 2000;

fn patience() -> u64 {
    600
}

/// The number that a program prints for each generation.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Command {
    /// The program and its arguments; no shell is between.
    pub command: Vec<String>,
    /// Seconds to wait for a line, 1 or more.
    #[serde(default = "patience")]
    pub timeout: u64,
    #[serde(skip)]
    process: Mutex<Option<Process>>,
}

impl Command {
    /// A reward that starts `command` with the first sample, and waits ten minutes for a line.
    pub fn new(command: Vec<String>) -> Self {
        Self { command, timeout: patience(), process: Mutex::default() }
    }

    fn fault(&self, why: String) -> Error {
        Error::Command { command: self.command.join(" "), why }
    }
}

/// A running command. Threads of their own feed it and hear it, so that neither side ever waits for the other to read.
#[derive(Debug)]
struct Process {
    child: Child,
    /// What goes to its standard input; what it didn't read when it ended is dropped.
    input: Option<Sender<Vec<u8>>>,
    /// The lines of its standard output.
    lines: Receiver<std::io::Result<Vec<u8>>>,
    /// The end of its standard error, whole once the channel is closed.
    tail: (Arc<Mutex<Vec<u8>>>, Receiver<()>),
}

impl Process {
    fn start(command: &[String]) -> std::io::Result<Self> {
        let mut child = std::process::Command::new(&command[0])
            .args(&command[1..])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let pipes = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let (Some(mut stdin), Some(stdout), Some(stderr)) = pipes else { unreachable!("all three are piped") };
        let (input, texts) = channel::<Vec<u8>>();
        thread::spawn(move || {
            // A command that ended doesn't read: what it printed last says more than the broken pipe.
            for text in texts {
                if stdin.write_all(&text).and_then(|()| stdin.flush()).is_err() {
                    break;
                }
            }
        });
        let (heard, lines) = sync_channel(1024);
        thread::spawn(move || listen(stdout, &heard));
        let kept = Arc::new(Mutex::new(Vec::new()));
        let (open, closed) = channel();
        let tail = Arc::clone(&kept);
        thread::spawn(move || {
            let _open = open;
            keep_tail(stderr, &kept);
        });
        Ok(Self { child, input: Some(input), lines, tail: (tail, closed) })
    }

    /// How it ended and what it said, for one that prints no more.
    fn end(&mut self) -> String {
        self.input = None;
        // It may close its output a moment before it is gone.
        let mut status = None;
        for _ in 0..50 {
            status = self.child.try_wait().ok().flatten();
            if status.is_some() {
                break;
            }
            thread::sleep(Duration::from_millis(10));
        }
        match status {
            Some(status) => format!("it ended ({status}){}", self.said()),
            None => format!("it closed its standard output{}", self.said()),
        }
    }

    /// The end of its standard error, in words.
    fn said(&self) -> String {
        // What the command started may hold the pipe after it.
        let _ = self.tail.1.recv_timeout(Duration::from_millis(500));
        let tail = self.tail.0.lock().unwrap_or_else(PoisonError::into_inner);
        match String::from_utf8_lossy(&tail).trim() {
            "" => ", nothing on standard error".to_owned(),
            said => format!(", standard error: {said}"),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.input = None;
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sends each line, without its end; one that is too long is cut there, and no more are sent.
fn listen(stdout: impl Read, heard: &SyncSender<std::io::Result<Vec<u8>>>) {
    let mut stdout = BufReader::new(stdout);
    loop {
        let mut line = Vec::new();
        let read = stdout.by_ref().take(LINE_BYTES).read_until(b'\n', &mut line);
        let whole = line.len() < LINE_BYTES as usize;
        let next = match read {
            Ok(0) => return,
            Ok(_) => Ok(line),
            Err(e) => Err(e),
        };
        let broken = next.is_err();
        if heard.send(next).is_err() || broken || !whole {
            return;
        }
    }
}

fn keep_tail(mut stderr: impl Read, kept: &Mutex<Vec<u8>>) {
    let mut piece = [0; 4096];
    while let Ok(n) = stderr.read(&mut piece)
        && n > 0
    {
        let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.extend_from_slice(&piece[..n]);
        let beyond = kept.len().saturating_sub(TAIL_BYTES);
        kept.drain(..beyond);
    }
}

/// The finite number on a line, or what came instead.
fn number(line: &[u8]) -> Result<f64, String> {
    let text = String::from_utf8_lossy(line);
    let text = text.trim();
    match text.parse::<f64>() {
        Ok(x) if x.is_finite() => Ok(x),
        Ok(x) => Err(format!("{x}")),
        Err(_) if text.chars().count() > 80 => Err(format!("\"{}…\"", text.chars().take(80).collect::<String>())),
        Err(_) => Err(format!("\"{text}\"")),
    }
}

impl Command {
    fn ask(&self, process: &mut Process, samples: &[Sample<'_>]) -> Result<Vec<f64>, Error> {
        let mut text = Vec::new();
        for s in samples {
            let line = serde_json::json!({"prompt": s.prompt, "completion": s.completion, "tokens": s.tokens});
            text.extend(line.to_string().into_bytes());
            text.push(b'\n');
        }
        if let Some(input) = &process.input {
            // That it is gone is heard on the other side.
            let _ = input.send(text);
        }
        let mut scores = Vec::with_capacity(samples.len());
        for (i, sample) in samples.iter().enumerate() {
            let wanted = format!("expected a number for sample {} of {} (row {})", i + 1, samples.len(), sample.row);
            let line = match process.lines.recv_timeout(Duration::from_secs(self.timeout)) {
                Ok(Ok(line)) => line,
                Ok(Err(e)) => return Err(self.fault(format!("{wanted}; its output can't be read: {e}"))),
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(self.fault(format!("{wanted}; {}", process.end())));
                }
                Err(RecvTimeoutError::Timeout) => {
                    let said = process.said();
                    return Err(self.fault(format!(
                        "{wanted}; no line came for {} s: each must be flushed as it is printed{said}",
                        self.timeout
                    )));
                }
            };
            match number(&line) {
                Ok(score) => scores.push(score),
                Err(came) => return Err(self.fault(format!("{wanted}, got {came}"))),
            }
        }
        Ok(scores)
    }
}

impl Reward for Command {
    fn scores(&self, samples: &[Sample<'_>]) -> Result<Vec<f64>, Error> {
        let mut place = self.process.lock().unwrap_or_else(PoisonError::into_inner);
        // Out of its place while it is asked: after a fault its lines are out of step, and the next call starts anew.
        let mut process = match place.take() {
            Some(process) => {
                if let Ok(Ok(line)) = process.lines.try_recv() {
                    let line = String::from_utf8_lossy(&line);
                    return Err(self.fault(format!("printed a line beyond one a sample: \"{}\"", line.trim())));
                }
                process
            }
            None => Process::start(&self.command).map_err(|e| self.fault(format!("can't be started: {e}")))?,
        };
        let scores = self.ask(&mut process, samples)?;
        *place = Some(process);
        Ok(scores)
    }
}

#[typetag::serde(name = "command")]
impl AnyReward for Command {
    fn validate(&self) -> Result<(), Error> {
        if self.command.first().is_none_or(String::is_empty) {
            return Err(parameter("command", "command", "a program and its arguments", "none"));
        }
        if self.timeout == 0 {
            return Err(parameter("command", "timeout", "1 or more", self.timeout));
        }
        Ok(())
    }
}

#[cfg(all(test, unix))]
mod tests {
    use std::time::Instant;

    use super::*;

    fn shell(script: &str) -> Command {
        Command::new(["sh", "-c", script].map(String::from).to_vec())
    }

    fn sample(completion: &str, row: usize) -> Sample<'_> {
        Sample { prompt: "a \"b\"\nc", completion, tokens: &[3, 2], row }
    }

    fn said(script: &str) -> String {
        shell(script).scores(&[sample("x", 8), sample("y", 9)]).unwrap_err().to_string()
    }

    #[test]
    fn a_line_is_a_sample_and_the_command_is_started_once() {
        // The number of the line since it was started, and what stands in it.
        let command =
            shell(r#"n=0; while read -r line; do n=$((n+1)); printf '%s\n' "$line" >> "$0"; echo "$n"; done"#);
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("lines");
        let mut words = command.command.clone();
        words.push(log.display().to_string());
        let command = Command::new(words);
        assert_eq!(command.scores(&[sample("x", 1), sample("y", 2)]).unwrap(), [1.0, 2.0]);
        assert_eq!(command.scores(&[sample("z", 3)]).unwrap(), [3.0]);
        drop(command);
        let lines = std::fs::read_to_string(log).unwrap();
        let first: serde_json::Value = serde_json::from_str(lines.lines().next().unwrap()).unwrap();
        assert_eq!(first, serde_json::json!({"prompt": "a \"b\"\nc", "completion": "x", "tokens": [3, 2]}));
        assert_eq!(lines.lines().count(), 3);
    }

    #[test]
    fn a_large_batch_does_not_lock_up() {
        // More than pipes hold, both ways: a command that answers each line, and one that reads all before it writes.
        let texts: Vec<String> = (0..2_000).map(|i| format!("<{i}>{}", "x".repeat(2_000))).collect();
        let samples: Vec<_> = texts.iter().enumerate().map(|(i, text)| sample(text, i)).collect();
        let each = shell("sed -u 's/.*<\\([0-9]*\\)>.*/\\1/'");
        let scores = each.scores(&samples).unwrap();
        assert!(scores.iter().enumerate().all(|(i, n)| *n == i as f64));
        let all = shell("head -n 2000 | sed 's/.*<\\([0-9]*\\)>.*/\\1/' | sort -n");
        assert_eq!(all.scores(&samples).unwrap(), scores);
    }

    #[test]
    fn what_is_no_number_is_named() {
        assert_eq!(
            said("sed -u 's/.*/good/'"),
            "reward command `sh -c sed -u 's/.*/good/'`: expected a number for sample 1 of 2 (row 8), got \"good\""
        );
        assert!(said("echo 1; echo; cat").ends_with("sample 2 of 2 (row 9), got \"\""));
        assert!(said("echo 1; echo nan; cat").ends_with("sample 2 of 2 (row 9), got NaN"));
        assert!(said("echo -inf; cat").ends_with("(row 8), got -inf"));
        // Without end, and without a line's end.
        assert!(said("yes | tr -d '\\n'").contains("got \"yyyy"));
    }

    #[test]
    fn a_command_that_ends_says_how() {
        let said = said("read -r a; echo 0.5; echo 'out of luck' >&2; exit 3");
        let wanted =
            "expected a number for sample 2 of 2 (row 9); it ended (exit status: 3), standard error: out of luck";
        assert!(said.ends_with(wanted), "{said}");
        let none = Command::new(vec!["/nowhere/score".into()]).scores(&[sample("x", 1)]).unwrap_err().to_string();
        assert!(none.starts_with("reward command `/nowhere/score`: can't be started: No such file"), "{none}");
        assert!(Command::new(Vec::new()).validate().unwrap_err().to_string().contains("a program and its arguments"));
    }

    #[test]
    fn a_command_that_says_nothing_is_not_waited_for_forever() {
        let silent = Command { timeout: 1, ..shell("exec sleep 600") };
        let begun = Instant::now();
        let said = silent.scores(&[sample("x", 1)]).unwrap_err().to_string();
        assert!(said.contains("no line came for 1 s: each must be flushed"), "{said}");
        assert!(begun.elapsed() < Duration::from_secs(30));
    }

    #[test]
    fn lines_beyond_one_a_sample_are_a_fault_and_the_next_call_starts_anew() {
        let command = shell("while read -r line; do echo 1; echo 2; done");
        assert_eq!(command.scores(&[sample("x", 1)]).unwrap(), [1.0]);
        // Until its second line is there.
        thread::sleep(Duration::from_millis(300));
        let said = command.scores(&[sample("y", 2)]).unwrap_err().to_string();
        assert!(said.ends_with("printed a line beyond one a sample: \"2\""), "{said}");
        assert_eq!(command.scores(&[sample("z", 3)]).unwrap(), [1.0]);
    }

    #[test]
    fn a_dropped_reward_ends_its_command() {
        let folder = tempfile::tempdir().unwrap();
        let (id, command) = (folder.path().join("id"), shell("echo $$ > \"$0\"; while read -r l; do echo 1; done"));
        let mut words = command.command.clone();
        words.push(id.display().to_string());
        let command = Command::new(words);
        command.scores(&[sample("x", 1)]).unwrap();
        let id = std::fs::read_to_string(id).unwrap();
        let alive = || std::process::Command::new("sh").args(["-c", &format!("kill -0 {id}")]).output().unwrap();
        assert!(alive().status.success());
        drop(command);
        assert!(!alive().status.success());
    }
}
