//! `kubectl tenon completion`: what a shell needs to complete the plugin's commands, called by itself or through kubectl.
//!
//! A shell that completes `kubectl tenon …` asks kubectl, and kubectl asks a program `kubectl_complete-tenon` on the `PATH`: that is a
//! script of two lines, which this command prints as well. It asks [`words`].

use std::process::ExitCode;

use clap::{Arg, CommandFactory as _, ValueEnum};

use crate::Cli;
use crate::answer::{self, AnswerError};
use crate::failure::Failure;

const LONG_ABOUT: &str = "Print what a shell needs to complete this plugin's commands.

For `kubectl tenon`, in any shell that completes kubectl itself, put a program onto the PATH by which kubectl finds completions:

  kubectl tenon completion kubectl > /usr/local/bin/kubectl_complete-tenon
  chmod +x /usr/local/bin/kubectl_complete-tenon

For the program by its own name, kubectl-tenon:

  bash        source <(kubectl tenon completion bash)
  zsh         kubectl tenon completion zsh > \"${fpath[1]}/_kubectl-tenon\"
  fish        kubectl tenon completion fish > ~/.config/fish/completions/kubectl-tenon.fish
  powershell  kubectl tenon completion powershell | Out-String | Invoke-Expression";

/// Asks nobody: what it knows is the command line's own words.
const SCRIPT: &str = "\
#!/bin/sh
# Found by kubectl when it completes `kubectl tenon`.
exec kubectl-tenon __complete -- \"$@\"
";

/// How kubectl is told that files are no answer (`ShellCompDirectiveNoFileComp` of cobra), and that they may be one.
const NO_FILES: &str = ":4\n";
const FILES: &str = ":0\n";

#[derive(Debug, clap::Args)]
#[command(long_about = LONG_ABOUT)]
pub(crate) struct Args {
    /// For whom
    #[arg(value_enum)]
    shell: Shell,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Shell {
    Bash,
    Zsh,
    Fish,
    Powershell,
    /// The program `kubectl_complete-tenon`, for kubectl's own completion
    Kubectl,
}

/// What kubectl asks.
#[derive(Debug, clap::Args)]
pub(crate) struct Asked {
    /// The words after `kubectl tenon`, the last one as far as it is typed
    #[arg(allow_hyphen_values = true, last = true)]
    words: Vec<String>,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode, Failure> {
    say(&script(args.shell))
}

/// Answers kubectl.
pub(crate) fn complete(asked: &Asked) -> Result<ExitCode, Failure> {
    let (candidates, files) = words(Cli::command(), &asked.words);
    let lines: Vec<_> = candidates.iter().map(|(word, about)| format!("{word}\t{about}\n")).collect();
    say(&(lines.concat() + if files { FILES } else { NO_FILES }))
}

fn say(text: &str) -> Result<ExitCode, Failure> {
    answer::say(text).map(|()| ExitCode::SUCCESS).map_err(|error: AnswerError| Failure::new(error))
}

fn script(shell: Shell) -> String {
    let generator = match shell {
        Shell::Bash => clap_complete::Shell::Bash,
        Shell::Zsh => clap_complete::Shell::Zsh,
        Shell::Fish => clap_complete::Shell::Fish,
        Shell::Powershell => clap_complete::Shell::PowerShell,
        Shell::Kubectl => return SCRIPT.to_owned(),
    };
    let mut text = Vec::new();
    // By its own name: what the shell calls is one word.
    let mut command = Cli::command().bin_name("kubectl-tenon");
    clap_complete::generate(generator, &mut command, "kubectl-tenon", &mut text);
    String::from_utf8_lossy(&text).into_owned()
}

/// What may come in the place of the last word, each with what it means; and whether it may be a file.
fn words(mut command: clap::Command, typed: &[String]) -> (Vec<(String, String)>, bool) {
    command.build();
    let (last, before) = typed.split_last().map_or(("", &[][..]), |(last, before)| (last.as_str(), before));
    let mut current = &command;
    let mut awaited: Option<&Arg> = None;
    for word in before {
        if awaited.take().is_some() {
            continue;
        }
        if let Some(flag) = word.strip_prefix('-') {
            awaited = current.get_arguments().find(|arg| is_called(arg, flag)).filter(|arg| takes_value(arg));
        } else if let Some(next) = current.find_subcommand(word) {
            current = next;
        }
    }
    let begins = |word: &str| word.starts_with(last);
    if let Some(arg) = awaited {
        let values: Vec<_> = values(arg).into_iter().filter(|(word, _)| begins(word)).collect();
        let files = values.is_empty()
            && arg.get_value_names().is_some_and(|names| names.iter().any(|name| name == "FILE"));
        return (values, files);
    }
    if last.starts_with('-') {
        let flags = current.get_arguments().filter(|arg| !arg.is_hide_set());
        let flags = flags.filter_map(|arg| Some((format!("--{}", arg.get_long()?), about(arg.get_help()))));
        return (flags.filter(|(word, _)| begins(word)).collect(), false);
    }
    let subcommands = current.get_subcommands().filter(|command| !command.is_hide_set());
    let subcommands = subcommands.map(|command| (command.get_name().to_owned(), about(command.get_about())));
    let positional = current.get_positionals().flat_map(values);
    let all: Vec<_> = subcommands.chain(positional).filter(|(word, _)| begins(word)).collect();
    let files = all.is_empty() && current.get_subcommands().next().is_none();
    (all, files)
}

fn is_called(arg: &Arg, flag: &str) -> bool {
    match flag.strip_prefix('-') {
        // With its value already.
        Some(long) => arg.get_long() == Some(long),
        None => arg.get_short().is_some_and(|short| flag.chars().eq([short])),
    }
}

fn takes_value(arg: &Arg) -> bool {
    arg.get_action().takes_values()
}

fn values(arg: &Arg) -> Vec<(String, String)> {
    let values = arg.get_possible_values();
    let shown = values.iter().filter(|value| !value.is_hide_set());
    shown.map(|value| (value.get_name().to_owned(), about(value.get_help()))).collect()
}

/// In one line: the first.
fn about(text: Option<&clap::builder::StyledStr>) -> String {
    text.map(ToString::to_string).unwrap_or_default().lines().next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn completed(typed: &[&str]) -> (Vec<String>, bool) {
        let typed: Vec<_> = typed.iter().map(|word| (*word).to_owned()).collect();
        let (words_, files) = words(Cli::command(), &typed);
        (words_.into_iter().map(|(word, _)| word).collect(), files)
    }

    #[test]
    fn commands_flags_and_values_are_completed() {
        assert_eq!(completed(&["sta"]), (vec!["status".to_owned()], false));
        assert_eq!(completed(&["image", "pu"]), (vec!["push".to_owned()], false));
        assert_eq!(completed(&["status", "--all"]), (vec!["--all-namespaces".to_owned()], false));
        assert_eq!(completed(&["status", "-n", "hall", "-o", "j"]), (vec!["json".to_owned()], false));
        assert_eq!(completed(&["status", "--kubeconfig", ""]), (vec![], true));
        assert!(completed(&[""]).0.contains(&"explain".to_owned()));
        assert!(!completed(&[""]).0.contains(&"__complete".to_owned()));
        assert_eq!(completed(&["completion", "z"]), (vec!["zsh".to_owned()], false));
    }

    #[test]
    fn each_shell_has_a_script_that_knows_the_commands() {
        for shell in Shell::value_variants() {
            let script = script(*shell);
            assert!(script.contains("kubectl-tenon"), "{shell:?}");
            assert_eq!(script.contains("explain"), *shell != Shell::Kubectl, "{shell:?}");
        }
    }
}
