//! What is seen while scenarios run: plain lines, and on a terminal a spinner or
//! a bar.
//!
//! Nothing here fails: a console that is gone must not change a verdict.

use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Done and to do, what came out, and what is left.
const BAR: &str = "{wide_bar} {pos}/{len} {msg}, {eta} left";

/// Where the live lines of a run go.
pub enum Console {
    /// To standard output.
    Stdout,
    /// To standard error, when standard output belongs to a report.
    Stderr,
    /// Nowhere.
    Silent,
    /// To a writer of the user's.
    Writer(Box<dyn Write + Send>),
}

impl fmt::Debug for Console {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Console::Stdout => "Stdout",
            Console::Stderr => "Stderr",
            Console::Silent => "Silent",
            Console::Writer(_) => "Writer",
        })
    }
}

/// The open console of a run.
#[derive(Clone)]
pub(crate) struct Live {
    console: Arc<Mutex<Console>>,
    is_terminal: bool,
}

impl Live {
    pub(crate) fn new(console: Console) -> Live {
        let is_terminal = match console {
            Console::Stdout => io::stdout().is_terminal(),
            Console::Stderr => io::stderr().is_terminal(),
            Console::Silent | Console::Writer(_) => false,
        };
        Live {
            console: Arc::new(Mutex::new(console)),
            is_terminal,
        }
    }

    pub(crate) fn is_terminal(&self) -> bool {
        self.is_terminal
    }

    /// One line, at once.
    pub(crate) fn line(&self, text: &str) {
        let mut console = self.console.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = match &mut *console {
            Console::Stdout => write_line(&mut io::stdout().lock(), text),
            Console::Stderr => write_line(&mut io::stderr().lock(), text),
            Console::Silent => Ok(()),
            Console::Writer(writer) => write_line(writer, text),
        };
    }

    /// A spinner with a text; hidden unless the console is a terminal. It ends
    /// with [`ProgressBar::finish_and_clear`].
    pub(crate) fn spinner(&self, text: &str) -> ProgressBar {
        let bar = ProgressBar::with_draw_target(None, self.target());
        bar.set_message(text.to_owned());
        if self.is_terminal {
            bar.enable_steady_tick(Duration::from_millis(100));
        }
        bar
    }

    /// A bar over so many runs, with the time that is left and a message; hidden
    /// unless the console is a terminal. Lines are printed inside
    /// [`ProgressBar::suspend`]. It ends with [`ProgressBar::finish_and_clear`].
    pub(crate) fn bar(&self, runs: u64) -> ProgressBar {
        let bar = ProgressBar::with_draw_target(Some(runs), self.target());
        if let Ok(style) = ProgressStyle::with_template(BAR) {
            bar.set_style(style);
        }
        if self.is_terminal {
            bar.enable_steady_tick(Duration::from_millis(250));
        }
        bar
    }

    fn target(&self) -> ProgressDrawTarget {
        let console = self.console.lock().unwrap_or_else(PoisonError::into_inner);
        match &*console {
            Console::Stdout if self.is_terminal => ProgressDrawTarget::stdout(),
            Console::Stderr if self.is_terminal => ProgressDrawTarget::stderr(),
            _ => ProgressDrawTarget::hidden(),
        }
    }
}

fn write_line(writer: &mut impl Write, text: &str) -> io::Result<()> {
    writeln!(writer, "{text}")?;
    writer.flush()
}
