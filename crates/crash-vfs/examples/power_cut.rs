//! A stranger's program and its power cuts: a to-do list on plain rusqlite.
//!
//! `cargo run --release -p agentos-crash-vfs --example power_cut` checks every
//! crash image of it and prints how many there were. With `NORMAL` as first
//! argument the program promises more than its setting keeps: the first image
//! that shows it is printed, and with a second argument (the line printed for
//! it) it is made again.

#![allow(clippy::print_stdout, reason = "a program for people")]

use std::error::Error;
use std::path::Path;

use agentos_crash_vfs::{Image, ImageDir, Log, Mark, Recorder, Shim};
use rusqlite::Connection;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let synchronous = arguments.next().unwrap_or_else(|| "FULL".to_owned());
    let only = arguments.next();
    let place = tempfile::tempdir()?;
    let data = place.path().join("data");
    std::fs::create_dir(&data)?;

    // Record: the program itself knows nothing of it but two words.
    let log = place.path().join("log");
    let recorder = Recorder::start(&log, Shim::over(&data))?;
    to_do_list(&data, &synchronous, &recorder)?;
    recorder.stop()?;

    // Check.
    let log = Log::read(&log)?;
    let images = ImageDir::at(&place.path().join("image"))?;
    let mut count = 0;
    let chosen: Box<dyn Iterator<Item = Image<'_>>> = match only {
        Some(line) => Box::new(std::iter::once(log.image(line.parse()?)?)),
        None => Box::new(log.crash_images(1)),
    };
    for image in chosen {
        images.write(&image)?;
        count += 1;
        if let Err(what) = check(images.path(), &image) {
            println!("after {count} images: {what}\nreplay: {}", image.id());
            println!("{}", image.describe());
            std::process::exit(1);
        }
    }
    println!("{count} images, all as promised");
    Ok(())
}

fn to_do_list(data: &Path, synchronous: &str, recorder: &Recorder) -> Result<(), Box<dyn Error>> {
    let db = Connection::open(data.join("list.db"))?;
    db.pragma_update(None, "journal_mode", "WAL")?;
    db.pragma_update(None, "synchronous", synchronous)?;
    db.execute_batch("CREATE TABLE items (number INTEGER PRIMARY KEY, text TEXT)")?;
    for number in 1..=50 {
        recorder.mark(Mark::begun(number.to_string()))?;
        db.execute(
            "INSERT INTO items VALUES (?1, 'buy ' || ?1 || ' eggs')",
            [number],
        )?;
        recorder.mark(Mark::acknowledged(number.to_string()))?;
    }
    Ok(())
}

/// What the program's users were told is there; and the file is sound.
fn check(data: &Path, image: &Image<'_>) -> Result<(), String> {
    let Some(newest) = image.acknowledged().last() else {
        return Ok(());
    };
    let look = || -> rusqlite::Result<(String, u64)> {
        let db = Connection::open(data.join("list.db"))?;
        let sound = db.query_row("PRAGMA integrity_check", [], |row| row.get(0))?;
        let count: i64 = db.query_row("SELECT count(*) FROM items", [], |row| row.get(0))?;
        Ok((sound, count.unsigned_abs()))
    };
    match look() {
        Ok((sound, _)) if sound != "ok" => Err(format!("damaged: {sound}")),
        Ok((_, count)) if newest.parse::<u64>().is_ok_and(|newest| newest > count) => {
            Err(format!("item {newest} was acknowledged, {count} are there"))
        }
        Ok(_) => Ok(()),
        Err(error) => Err(error.to_string()),
    }
}
