//! Running a program to its end.

use crate::error::Error;
use std::io::{ErrorKind, Write};
use std::process::{Command, Stdio};

/// What a program said.
pub(super) struct Said {
    /// It has had success.
    pub(super) success: bool,
    /// On standard output.
    pub(super) out: String,
    /// On standard error, in one line.
    pub(super) complaint: String,
}

impl Said {
    /// Its output; without success, what it complains of.
    pub(super) fn or_error(self, program: &str) -> Result<String, Error> {
        match self.success {
            true => Ok(self.out),
            false => Err(Error::Program { program: program.to_owned(), complaint: self.complaint }),
        }
    }
}

/// Runs a program with this on its standard input, in the calling thread's network namespace.
pub(super) fn run(program: &str, args: &[&str], input: &str) -> Result<Said, Error> {
    let failed = |source: std::io::Error| match source.kind() {
        ErrorKind::NotFound => Error::NoProgram { program: program.to_owned() },
        _ => Error::Program { program: program.to_owned(), complaint: source.to_string() },
    };
    let mut command = Command::new(program);
    // Errors are passed on to operators, who are to find them.
    command.args(args).env("LC_ALL", "C").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(failed)?;
    if let Some(mut stdin) = child.stdin.take() {
        // Who ends before it has read everything says why; the texts are shorter than a pipe holds.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output().map_err(failed)?;
    let complaint = String::from_utf8_lossy(&output.stderr);
    let complaint = complaint.split_whitespace().collect::<Vec<_>>().join(" ");
    Ok(Said {
        success: output.status.success(),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        complaint: if complaint.is_empty() { output.status.to_string() } else { complaint },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn input_goes_in_and_what_is_said_comes_out() {
        let said = run("cat", &[], "one\ntwo\n").unwrap();
        assert_eq!((said.success, said.out.as_str()), (true, "one\ntwo\n"));
        let error = run("sh", &["-c", "echo it is; echo wrong >&2; exit 3"], "").unwrap().or_error("sh");
        assert_eq!(error.unwrap_err().to_string(), "sh refuses: wrong");
        let error = run("sh", &["-c", "exit 3"], "").unwrap().or_error("sh").unwrap_err();
        assert!(error.to_string().contains("exit status: 3"), "{error}");
        let error = run("weft-has-no-such-program", &[], "").map(|said| said.out).unwrap_err();
        assert!(matches!(error, Error::NoProgram { .. }), "{error}");
    }
}
