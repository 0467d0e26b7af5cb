//! The report of a loop as JUnit XML, which build servers read: a test suite a
//! scenario, a test case a run.
//!
//! A violation is a `failure`. What was inconclusive is an `error` and not
//! `skipped`: servers show skipped tests as if all were well, and a run that
//! nobody could judge is not.

use std::io;

use quick_xml::Writer;
use quick_xml::events::{BytesDecl, BytesText, Event};

use super::{Counts, RunRecord, ScenarioTally, StabilityReport};
use crate::verdict::Verdict;

type Xml = Writer<Vec<u8>>;

/// The report as XML.
///
/// # Errors
///
/// None that is known: it is written to memory.
pub fn render(report: &StabilityReport) -> io::Result<String> {
    let mut xml = Writer::new_with_indent(Vec::new(), b' ', 2);
    xml.write_event(Event::Decl(BytesDecl::new("1.0", Some("UTF-8"), None)))?;
    let counts = report.counts();
    let time = report.scenarios.iter().map(milliseconds).sum();
    let name = format!("stability, seed {}", report.seed);
    let [name, tests, failures, errors, time] = attributes(&name, counts, time);
    xml.create_element("testsuites")
        .with_attributes([name.pair(), tests.pair(), failures.pair()])
        .with_attributes([errors.pair(), time.pair()])
        .write_inner_content(|xml| {
            report
                .scenarios
                .iter()
                .try_for_each(|tally| suite(xml, report, tally))
        })?;
    let mut bytes = xml.into_inner();
    bytes.push(b'\n');
    String::from_utf8(bytes).map_err(io::Error::other)
}

fn suite(xml: &mut Xml, report: &StabilityReport, tally: &ScenarioTally) -> io::Result<()> {
    let all = attributes(&tally.name, tally.counts(), milliseconds(tally));
    xml.create_element("testsuite")
        .with_attributes(all.iter().map(Attribute::pair))
        .write_inner_content(|xml| {
            tally
                .records
                .iter()
                .try_for_each(|record| case(xml, report, tally, *record))
        })?;
    Ok(())
}

fn case(
    xml: &mut Xml,
    report: &StabilityReport,
    tally: &ScenarioTally,
    record: RunRecord,
) -> io::Result<()> {
    let name = format!("run {} seed {}", record.run, report.seed_of(record.run));
    let time = seconds(record.duration_ms);
    let class = legal(&tally.name);
    let element = xml.create_element("testcase").with_attributes([
        ("name", name.as_str()),
        ("classname", class.as_str()),
        ("time", time.as_str()),
    ]);
    let tag = match record.verdict {
        Verdict::Passed => {
            element.write_empty()?;
            return Ok(());
        }
        Verdict::Violated => "failure",
        Verdict::Inconclusive => "error",
    };
    let failure = tally.failure(record.run);
    let first = failure.and_then(|failure| failure.reasons.first());
    let message = legal(first.map_or("the details were not kept", String::as_str));
    let mut text = String::new();
    if let Some(failure) = failure {
        text = format!("{}\nreplay: {}", failure.reasons.join("\n"), failure.replay);
        if let Some(evidence) = &failure.evidence {
            text.push_str(&format!("\nevidence: {}", evidence.display()));
        }
    }
    let text = legal(&text);
    element.write_inner_content(|xml| {
        xml.create_element(tag)
            .with_attributes([
                ("message", message.as_str()),
                ("type", record.verdict.as_str()),
            ])
            .write_text_content(BytesText::new(&text))?;
        Ok(())
    })?;
    Ok(())
}

struct Attribute(&'static str, String);

impl Attribute {
    fn pair(&self) -> (&str, &str) {
        (self.0, &self.1)
    }
}

fn attributes(name: &str, counts: Counts, time_ms: u64) -> [Attribute; 5] {
    [
        Attribute("name", legal(name)),
        Attribute("tests", counts.total().to_string()),
        Attribute("failures", counts.violated.to_string()),
        Attribute("errors", counts.inconclusive.to_string()),
        Attribute("time", seconds(time_ms)),
    ]
}

fn milliseconds(tally: &ScenarioTally) -> u64 {
    tally.records.iter().map(|record| record.duration_ms).sum()
}

fn seconds(millis: u64) -> String {
    format!("{}.{:03}", millis / 1000, millis % 1000)
}

/// XML has no way to write most control characters, not even escaped; a victim
/// may have printed them.
fn legal(text: &str) -> String {
    let is_legal = |letter: char| {
        matches!(letter, '\t' | '\n' | ' '..='\u{fffd}' | '\u{10000}'..) && letter != '\u{7f}'
    };
    text.chars()
        .map(|letter| if is_legal(letter) { letter } else { '\u{fffd}' })
        .collect()
}
