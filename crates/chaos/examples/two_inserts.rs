//! Orders with an invoice each, on plain `rusqlite`: as two transactions, which a
//! crash can come between, and as one.
//!
//! `two_inserts apart|together DATABASE SIZE` takes so many orders and acknowledges
//! each. `two_inserts check DATABASE` says what a crash has left: code 0 when all
//! holds, 1 when something is broken, 3 when it cannot say.

use std::error::Error;
use std::path::Path;
use std::process::ExitCode;

use rusqlite::Connection;

const SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS orders (id INTEGER PRIMARY KEY);
    CREATE TABLE IF NOT EXISTS invoices (order_id INTEGER PRIMARY KEY);
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match arguments[..] {
        [way @ ("apart" | "together"), database, size] => size
            .parse()
            .map_err(Into::into)
            .and_then(|size| take_orders(database.as_ref(), size, way == "together"))
            .map(|()| ExitCode::SUCCESS),
        ["check", database] => check(database.as_ref()),
        _ => Err("two_inserts apart|together DATABASE SIZE, or check DATABASE".into()),
    };
    done.unwrap_or_else(|error| {
        complain(error.as_ref());
        ExitCode::from(3)
    })
}

/// Takes the orders 1 to `size`.
fn take_orders(database: &Path, size: u32, together: bool) -> Result<(), Box<dyn Error>> {
    let mut connection = Connection::open(database)?;
    connection.execute_batch(SCHEMA)?;
    for order in 1..=size {
        if together {
            let transaction = connection.transaction()?;
            insert(&transaction, order)?;
            transaction.commit()?;
        } else {
            insert(&connection, order)?;
        }
        acknowledge(order);
    }
    Ok(())
}

/// Two inserts. Without a transaction around them, each is one.
fn insert(connection: &Connection, order: u32) -> rusqlite::Result<()> {
    connection.execute("INSERT INTO orders (id) VALUES (?1)", [order])?;
    connection.execute("INSERT INTO invoices (order_id) VALUES (?1)", [order])?;
    Ok(())
}

/// Looks at what is there, with the acknowledgements that the harness tells.
fn check(database: &Path) -> Result<ExitCode, Box<dyn Error>> {
    let acked: i64 = std::env::var("CHAOS_ACK_COUNT")?.parse()?;
    // Before the first table there is nothing, which is sound.
    let connection = Connection::open(database)?;
    connection.execute_batch(SCHEMA)?;
    let count = |sql: &str| connection.query_row(sql, [], |row| row.get::<_, i64>(0));
    let orders = count("SELECT count(*) FROM orders")?;
    let bare = count(
        "SELECT count(*) FROM orders LEFT JOIN invoices ON order_id = id WHERE order_id IS NULL",
    )?;
    let mut reasons = Vec::new();
    if bare > 0 {
        reasons.push(format!("{bare} of {orders} orders without an invoice"));
    }
    if orders < acked {
        reasons.push(format!("{acked} orders acknowledged, {orders} found"));
    }
    reasons.iter().for_each(|reason| say(reason));
    Ok(ExitCode::from(u8::from(!reasons.is_empty())))
}

#[expect(clippy::print_stdout, reason = "the harness reads it")]
fn acknowledge(order: u32) {
    println!("ack {order}");
}

#[expect(clippy::print_stdout, reason = "the harness reads it")]
fn say(reason: &str) {
    println!("{reason}");
}

#[expect(clippy::print_stderr, reason = "a program says why it ends")]
fn complain(error: &dyn Error) {
    eprintln!("{error}");
}
