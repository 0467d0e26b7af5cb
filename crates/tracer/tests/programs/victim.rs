//! A program that exists to be traced: one role per name.

#![allow(
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "it is no library: it prints acknowledgements and starts children of its own"
)]

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::thread;

use agentos_process::{CommandSpec, Sink};
use agentos_tracer::{Plan, TraceError, Tracer};

fn main() -> io::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args.as_slice() {
        ["writer", path] => writer(path),
        ["fallible", path] => fallible(path),
        ["threads", folder] => threads(folder),
        ["forks", depth] => forks(depth),
        ["vector", path] => vector(path),
        ["exec-thread", folder] => exec_thread(folder),
        ["tracer"] => tracer(),
        ["event"] => event(),
        ["binds", path] => UnixListener::bind(path).map(drop),
        _ => Err(io::Error::other("no such role")),
    }
}

/// Creates a file, writes to it three times, syncs it, and acknowledges each.
fn writer(path: &str) -> io::Result<()> {
    let mut file = File::create(path)?;
    for word in ["one", "two", "three"] {
        file.write_all(word.as_bytes())?;
        println!("ack {word}");
    }
    file.sync_all()?;
    std::fs::rename(path, format!("{path}.done"))
}

/// Makes one write and one sync, and says how each went.
fn fallible(path: &str) -> io::Result<()> {
    let mut file = File::create(path)?;
    for _ in 0..2 {
        match file.write(b"twelve bytes") {
            Ok(bytes) => println!("wrote {bytes}"),
            Err(error) => println!("{:?} {:?}", error.kind(), error.raw_os_error()),
        }
    }
    match file.sync_data() {
        Ok(()) => println!("synced"),
        Err(error) => println!("{:?} {:?}", error.kind(), error.raw_os_error()),
    }
    Ok(())
}

/// Three threads, each with a file and a thread of its own, started one after
/// the other and run at the same time.
fn threads(folder: &str) -> io::Result<()> {
    let run = |name: String| -> io::Result<()> {
        let mut file = File::create(name)?;
        for _ in 0..5 {
            file.write_all(b"x")?;
        }
        Ok(())
    };
    let threads: Vec<_> = (0..3)
        .map(|k| {
            let name = format!("{folder}/{k}");
            thread::spawn(move || {
                let inner = format!("{name}.inner");
                let inner = thread::spawn(move || run(inner));
                run(name)?;
                inner.join().map_err(|_| io::Error::other("a panic"))?
            })
        })
        .collect();
    for thread in threads {
        thread.join().map_err(|_| io::Error::other("a panic"))??;
    }
    Ok(())
}

/// A chain of processes, each of which says its id and waits for its child.
fn forks(depth: &str) -> io::Result<()> {
    let depth: u32 = depth.parse().map_err(io::Error::other)?;
    println!("pid {}", std::process::id());
    if depth > 0 {
        let mut child = Command::new(std::env::current_exe()?)
            .args(["forks", &(depth - 1).to_string()])
            .spawn()?;
        child.wait()?;
    } else {
        println!("deep");
    }
    Ok(())
}

/// Writes several buffers at once, then one as a vector.
fn vector(path: &str) -> io::Result<()> {
    let mut file = File::create(path)?;
    let pieces = [b"aaaa", b"bbbb", b"cccc", b"dddd"].map(|piece| io::IoSlice::new(piece));
    println!("{}", file.write_vectored(&pieces)?);
    println!("{}", file.write_vectored(&pieces[..1])?);
    Ok(())
}

/// Writes a file from its main thread, another from a second thread, and has
/// that one execute a shell, which replaces them both.
fn exec_thread(folder: &str) -> io::Result<()> {
    std::fs::write(format!("{folder}/main"), "m")?;
    let name = format!("{folder}/second");
    let second = thread::spawn(move || -> io::Result<()> {
        std::fs::write(name, "s")?;
        Err(Command::new("/bin/sh").args(["-c", "echo third"]).exec())
    });
    second.join().map_err(|_| io::Error::other("a panic"))?
}

/// Signals an event, as those do who wake a loop of their own.
fn event() -> io::Result<()> {
    let event = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC)?;
    File::from(event).write_all(&1_u64.to_ne_bytes())
}

/// Tries to trace a program of its own, and says what came of it.
fn tracer() -> io::Result<()> {
    let spec = CommandSpec::shell("exit 0");
    match Tracer::new(Plan::Count).spawn(&spec, Sink::Null) {
        Ok(_) => println!("traced"),
        Err(TraceError::NotPermitted { doing, source }) => println!("{doing}: {:?}", source.kind()),
        Err(other) => println!("{other:?}"),
    }
    Ok(())
}
