//! A program run to its end, with an error that names the program and quotes its last words.

use std::ffi::OsStr;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

/// Why a program did not do its work.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// It could not be started: usually it is not installed.
    #[error("start {program}")]
    Start {
        /// The program's name or path.
        program: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Its pipes broke.
    #[error("talk to {program}")]
    Talk {
        /// The program's name or path.
        program: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// It ran and said no.
    #[error("{line}: {status}\n{tail}")]
    Failed {
        /// Program and arguments.
        line: String,
        /// How it ended.
        status: ExitStatus,
        /// The end of what it wrote.
        tail: Tail,
    },
}

/// Shows the last lines of logs when it is dropped by a panic: of a test's, above all.
#[derive(Debug)]
pub struct ShownOnPanic(pub Vec<PathBuf>);

impl Drop for ShownOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for log in &self.0 {
                println!("{} ends with\n{}", log.display(), Tail::of_file(log));
            }
        }
    }
}

/// The last lines of a log or of a program's output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tail(String);

impl Tail {
    const LINES: usize = 20;
    /// Enough for that many lines of any component's log.
    const BYTES: u64 = 16 * 1024;

    /// The end of a text.
    pub fn of(text: &str) -> Self {
        let lines: Vec<&str> = text.trim_end().lines().collect();
        let from = lines.len().saturating_sub(Self::LINES);
        Self(lines.get(from..).unwrap_or_default().join("\n"))
    }

    /// The end of a file; a file that cannot be read has no last lines.
    pub fn of_file(path: &Path) -> Self {
        let read = || -> io::Result<Vec<u8>> {
            let mut file = File::open(path)?;
            let start = file.metadata()?.len().saturating_sub(Self::BYTES);
            file.seek(SeekFrom::Start(start))?;
            let mut bytes = Vec::new();
            file.take(Self::BYTES).read_to_end(&mut bytes)?;
            Ok(bytes)
        };
        Self::of(&String::from_utf8_lossy(&read().unwrap_or_default()))
    }
}

impl fmt::Display for Tail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Runs the program and gives what it wrote to its standard output.
pub fn run(command: &mut Command) -> Result<Vec<u8>, CommandError> {
    run_with_input(command, &[])
}

/// As [`run`], with something on its standard input.
pub fn run_with_input(command: &mut Command, input: &[u8]) -> Result<Vec<u8>, CommandError> {
    let program = PathBuf::from(command.get_program());
    let talk = |source| CommandError::Talk { program: program.clone(), source };
    let mut child = command
        .stdin(if input.is_empty() { Stdio::null() } else { Stdio::piped() })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|source| CommandError::Start { program: program.clone(), source })?;
    // A program that ends without reading everything tells why by its status.
    let stdin = child.stdin.take();
    let output = std::thread::scope(|scope| {
        scope.spawn(move || stdin.map(|mut pipe| pipe.write_all(input)));
        child.wait_with_output()
    })
    .map_err(talk)?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let mut said = output.stdout;
    said.extend_from_slice(&output.stderr);
    Err(CommandError::Failed {
        line: line(command),
        status: output.status,
        tail: Tail::of(&String::from_utf8_lossy(&said)),
    })
}

/// As [`run`], for text.
pub fn text(command: &mut Command) -> Result<String, CommandError> {
    run(command).map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
}

/// The program of that name in the folders of `PATH`, or where Debian keeps what only root runs.
pub fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|folder| folder.join(name))
        .find(|candidate| is_program(candidate))
}

/// Whether the path is a file that may be executed by someone.
pub(crate) fn is_program(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

fn line(command: &Command) -> String {
    std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(OsStr::to_string_lossy)
        .collect::<Vec<_>>()
        .join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_quotes_the_program_and_its_last_words() {
        let error = run(Command::new("sh").args(["-c", "echo one; echo two >&2; exit 3"])).unwrap_err();
        let text = error.to_string();
        assert!(text.starts_with("sh -c "), "{text}");
        assert!(text.contains("exit status: 3") && text.contains("one") && text.ends_with("two"), "{text}");
    }

    #[test]
    fn input_larger_than_a_pipe_passes() {
        let input = vec![b'x'; 1 << 20];
        assert_eq!(run_with_input(&mut Command::new("cat"), &input).unwrap(), input);
    }

    #[test]
    fn a_tail_keeps_the_last_lines_only() {
        let text = (0..100).map(|n| n.to_string()).collect::<Vec<_>>().join("\n");
        let tail = Tail::of(&text).to_string();
        assert!(tail.starts_with("80\n") && tail.ends_with("99"), "{tail}");
    }
}
