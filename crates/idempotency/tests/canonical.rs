//! Canonical JSON: what must not matter does not, and everything else does.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use agentos_idempotency::limits::{JSON_BYTES_MAX, JSON_DEPTH_MAX};
use agentos_idempotency::{CanonicalJson, JsonError};
use proptest::prelude::*;
use serde::de::IgnoredAny;
use serde_json::{Value, json};

fn canonical(text: &str) -> String {
    let canonical = CanonicalJson::of_text(text).unwrap_or_else(|e| panic!("{text}: {e}"));
    String::from_utf8(canonical.into_bytes()).unwrap()
}

fn refused(text: &str) -> JsonError {
    match CanonicalJson::of_text(text) {
        Ok(form) => panic!("{text} was taken: {form:?}"),
        Err(error) => error,
    }
}

/// These bytes are stored in digests: they never change.
#[test]
fn the_form_is_exactly_this() {
    for (text, form) in [
        (" null ", "null"),
        ("[ true , false ]", "[true,false]"),
        ("{\"b\": 1,\n \"a\": [ ]}", r#"{"a":[],"b":1}"#),
        // By bytes, which is by code points, and not by UTF-16 units.
        (
            r#"{"\ud83e\udd80":1,"\uffee":2,"":3,"B":4,"a":5}"#,
            "{\"\":3,\"B\":4,\"a\":5,\"\u{ffee}\":2,\"🦀\":1}",
        ),
        (
            r#""\u0041\/\u00e9\ud83e\udd80\n\u0000\u001f\u007f\"\\""#,
            "\"A/é🦀\\n\\u0000\\u001f\u{7f}\\\"\\\\\"",
        ),
        ("-7", "-7"),
        ("18446744073709551615", "18446744073709551615"),
        ("18446744073709551616", "18446744073709551616"),
        (
            "-123456789012345678901234567890",
            "-123456789012345678901234567890",
        ),
        ("1.0", "1e0"),
        ("1.50", "1.5e0"),
        ("1e2", "1e2"),
        ("100.0", "1e2"),
        ("-12.5E+02", "-1.25e3"),
        ("-0", "-0e0"),
        ("-0.0", "-0e0"),
        ("0e7", "0e0"),
        ("0.0625", "6.25e-2"),
        ("1e300", "1e300"),
        ("5e-324", "5e-324"),
        // A float keeps none of these.
        ("0.10000000000000000555", "1.0000000000000000555e-1"),
        ("18446744073709551617.0", "1.8446744073709551617e19"),
        ("-1e400", "-1e400"),
        ("12.50e-400", "1.25e-399"),
    ] {
        assert_eq!(canonical(text), form, "{text}");
        assert_eq!(canonical(form), form, "{text}");
    }
}

#[test]
fn what_looks_alike_and_is_another_request_differs() {
    let different = [
        "1",
        "1.0",
        "-1",
        "\"1\"",
        "true",
        "[1]",
        "{\"1\":1}",
        "null",
        "\"\"",
        "[]",
        "{}",
        "0",
        "0.0",
        "-0.0",
        "[[1]]",
        "[1,1]",
        "\"a\"",
        "\"A\"",
        "\"a \"",
        "\"\u{e9}\"",
        "\"e\u{301}\"",
        "9007199254740992",
        "9007199254740993",
        "9007199254740992.0",
        "9007199254740993.0",
        "18446744073709551616",
        "18446744073709551617",
        "0.1",
        "0.10000000000000001",
        "1e400",
        "1e401",
        "1e-400",
        "1e-401",
        "{\"a\":null}",
        "{\"a\":1,\"b\":2}",
        "{\"a\":2,\"b\":1}",
        "[null]",
    ];
    let mut forms: Vec<String> = different.iter().map(|text| canonical(text)).collect();
    forms.sort_unstable();
    forms.dedup();
    assert_eq!(forms.len(), different.len());
}

#[test]
fn a_member_that_is_there_twice_is_refused_wherever_it_is() {
    for text in [
        r#"{"a":1,"a":1}"#,
        r#"{"a":1,"b":2,"\u0061":3}"#,
        r#"[{"x":{"a":[],"a":[]}}]"#,
    ] {
        let error = refused(text);
        assert!(
            matches!(&error, JsonError::DuplicateMember { name } if name == "a"),
            "{text}: {error:?}"
        );
    }
    assert_eq!(canonical(r#"[{"a":1},{"a":1}]"#), r#"[{"a":1},{"a":1}]"#);
}

#[test]
fn what_is_no_json_is_refused_by_type() {
    for text in [
        "",
        " ",
        "nul",
        "[1,]",
        "{\"a\":1,}",
        "{'a':1}",
        "01",
        "+1",
        ".5",
        "1.",
        "NaN",
        "Infinity",
        "-",
        "1 2",
        "\"\\ud800\"",
        "{\"\\ud800\":1}",
        "\"\u{1}\"",
        "\"a",
        "{1:2}",
        "\u{feff}1",
        "[1",
        "// x\n1",
    ] {
        let error = refused(text);
        assert!(matches!(error, JsonError::NotJson(_)), "{text}: {error:?}");
    }
    let bytes = CanonicalJson::of_bytes(b"\"\xff\"").unwrap_err();
    assert!(matches!(bytes, JsonError::NotUtf8(_)), "{bytes:?}");
    for text in ["1e99999999999999999999", "0e-99999999999999999999"] {
        let error = refused(text);
        assert!(matches!(error, JsonError::Exponent { .. }), "{error:?}");
    }
}

#[test]
fn depth_and_length_are_bounded_for_text_and_for_values() {
    let nested = |depth| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    assert_eq!(canonical(&nested(JSON_DEPTH_MAX)), nested(JSON_DEPTH_MAX));
    let value = |depth| (1..depth).fold(json!([]), |inner, _| json!([inner]));
    let of_value = CanonicalJson::of_value(&value(JSON_DEPTH_MAX)).unwrap();
    assert_eq!(of_value.as_bytes(), nested(JSON_DEPTH_MAX).as_bytes());
    let beyond = CanonicalJson::of_value(&value(JSON_DEPTH_MAX + 1)).unwrap_err();
    for error in [
        beyond,
        refused(&nested(JSON_DEPTH_MAX + 1)),
        // Far beyond any stack.
        refused(&nested(3_000_000)),
    ] {
        let JsonError::LimitExceeded(exceeded) = &error else {
            panic!("{error:?}");
        };
        assert_eq!(exceeded.name, "JSON depth");
        assert_eq!(exceeded.limit, JSON_DEPTH_MAX as u64);
        assert_eq!(exceeded.value, JSON_DEPTH_MAX as u64 + 1);
    }
    let long = format!("\"{}\"", "x".repeat(JSON_BYTES_MAX - 1));
    let JsonError::LimitExceeded(exceeded) = refused(&long) else {
        panic!("a text beyond the limit was taken");
    };
    assert_eq!(exceeded.value, JSON_BYTES_MAX as u64 + 1);
}

/// JSON as the tests mean it: members in order, numbers by their exact value.
#[derive(Debug, Clone, PartialEq)]
enum Node {
    Null,
    Bool(bool),
    /// Digits, maybe with a sign.
    Integer(String),
    Decimal(Exact),
    Text(String),
    List(Vec<Node>),
    Object(BTreeMap<String, Node>),
}

/// `digits` times ten to the `exponent`: no zeros at the end, zero has exponent 0.
#[derive(Debug, Clone, PartialEq)]
struct Exact {
    negative: bool,
    digits: u128,
    exponent: i32,
}

fn exact(negative: bool, mut digits: u128, mut exponent: i32) -> Node {
    if digits == 0 {
        exponent = 0;
    }
    while digits != 0 && digits.is_multiple_of(10) {
        digits /= 10;
        exponent += 1;
    }
    Node::Decimal(Exact {
        negative,
        digits,
        exponent,
    })
}

fn number() -> impl Strategy<Value = Node> {
    let integer = prop_oneof![
        (-3_i128..12).boxed(),
        any::<i128>().boxed(),
        any::<u64>().prop_map(i128::from).boxed(),
    ];
    let digits = prop_oneof![(0_u128..12).boxed(), any::<u128>().boxed()];
    let exponent = prop_oneof![(-3..3).boxed(), (-420..420).boxed()];
    prop_oneof![
        integer.prop_map(|number| Node::Integer(number.to_string())),
        (any::<bool>(), digits, exponent).prop_map(|(sign, digits, exp)| exact(sign, digits, exp)),
        any::<f64>()
            .prop_filter("finite", |float| float.is_finite())
            .prop_map(|float| Node::of(&Value::from(float))),
    ]
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        "[ab]{0,2}",
        "[a\\\\\"/\u{0}\u{1f}\n\u{7f}é\u{ffee}🦀]{0,4}",
        ".{0,8}"
    ]
}

fn node() -> impl Strategy<Value = Node> {
    let leaf = prop_oneof![
        Just(Node::Null),
        any::<bool>().prop_map(Node::Bool),
        number(),
        text().prop_map(Node::Text),
    ];
    leaf.prop_recursive(4, 24, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Node::List),
            prop::collection::btree_map(text(), inner, 0..5).prop_map(Node::Object),
        ]
    })
}

impl Node {
    fn of(value: &Value) -> Node {
        match value {
            Value::Null => Node::Null,
            Value::Bool(word) => Node::Bool(*word),
            Value::Number(number) if number.is_f64() => {
                // The shortest digits that give this float.
                let text = format!("{:e}", number.as_f64().unwrap());
                let (mantissa, exponent) = text.split_once('e').unwrap();
                let negative = mantissa.starts_with('-');
                let mantissa = mantissa.trim_start_matches('-');
                let places = mantissa.split_once('.').map_or(0, |(_, rest)| rest.len());
                let digits = mantissa.replace('.', "").parse().unwrap();
                let places = i32::try_from(places).unwrap();
                exact(negative, digits, exponent.parse::<i32>().unwrap() - places)
            }
            Value::Number(number) => Node::Integer(number.to_string()),
            Value::String(text) => Node::Text(text.clone()),
            Value::Array(items) => Node::List(items.iter().map(Node::of).collect()),
            Value::Object(members) => {
                let member = |(name, value): (&String, &Value)| (name.clone(), Node::of(value));
                Node::Object(members.iter().map(member).collect())
            }
        }
    }

    /// Writes it in one of many ways, which `chance` chooses.
    fn write(&self, chance: &mut Chance, out: &mut String) {
        chance.space(out);
        match self {
            Node::Null => out.push_str("null"),
            Node::Bool(word) => write!(out, "{word}").unwrap(),
            Node::Integer(digits) => out.push_str(digits),
            Node::Decimal(number) => number.write(chance, out),
            Node::Text(text) => write_text(text, chance, out),
            Node::List(items) => {
                out.push('[');
                for (index, item) in items.iter().enumerate() {
                    out.push_str(if index == 0 { "" } else { "," });
                    item.write(chance, out);
                }
                chance.space(out);
                out.push(']');
            }
            Node::Object(members) => {
                let mut members: Vec<_> = members.iter().collect();
                for index in 1..members.len() {
                    members.swap(index, chance.below(index + 1));
                }
                out.push('{');
                for (index, (name, member)) in members.into_iter().enumerate() {
                    out.push_str(if index == 0 { "" } else { "," });
                    chance.space(out);
                    write_text(name, chance, out);
                    chance.space(out);
                    out.push(':');
                    member.write(chance, out);
                }
                chance.space(out);
                out.push('}');
            }
        }
        chance.space(out);
    }
}

impl Exact {
    fn write(&self, chance: &mut Chance, out: &mut String) {
        if self.negative {
            out.push('-');
            if self.digits == 0 && chance.below(2) == 0 {
                return out.push('0');
            }
        }
        // The point goes anywhere into the digits, and zeros behind them.
        let digits = self.digits.to_string();
        let before = 1 + chance.below(digits.len());
        let (whole, fraction) = digits.split_at(before);
        out.push_str(whole);
        let zeros = "0".repeat(chance.below(3));
        if !fraction.is_empty() || !zeros.is_empty() {
            write!(out, ".{fraction}{zeros}").unwrap();
        }
        let exponent = self.exponent + i32::try_from(fraction.len()).unwrap();
        if exponent != 0 || (fraction.is_empty() && zeros.is_empty()) {
            let e = if chance.below(2) == 0 { 'e' } else { 'E' };
            let plus = if exponent >= 0 && chance.below(2) == 0 {
                "+"
            } else {
                ""
            };
            write!(out, "{e}{plus}{exponent}").unwrap();
        }
    }
}

fn write_text(text: &str, chance: &mut Chance, out: &mut String) {
    out.push('"');
    for character in text.chars() {
        let must_escape = character < ' ' || character == '"' || character == '\\';
        if must_escape || chance.below(3) == 0 {
            for unit in character.encode_utf16(&mut [0; 2]) {
                if chance.below(2) == 0 {
                    write!(out, "\\u{unit:04x}").unwrap();
                } else {
                    write!(out, "\\u{unit:04X}").unwrap();
                }
            }
        } else {
            out.push(character);
        }
    }
    out.push('"');
}

/// Choices, from numbers that proptest gives and shrinks.
struct Chance {
    numbers: Vec<u8>,
    next: usize,
}

impl Chance {
    fn below(&mut self, most: usize) -> usize {
        self.next += 1;
        usize::from(self.numbers[self.next % self.numbers.len()]) % most
    }

    fn space(&mut self, out: &mut String) {
        for _ in 0..self.below(3) {
            out.push([' ', '\n', '\t', '\r'][self.below(4)]);
        }
    }
}

fn chance() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 1..64)
}

fn written(node: &Node, numbers: Vec<u8>) -> String {
    let mut out = String::new();
    node.write(&mut Chance { numbers, next: 0 }, &mut out);
    out
}

/// Whatever is given: an answer, which holds what it promises.
fn check_bytes(bytes: &[u8]) {
    let Ok(form) = CanonicalJson::of_bytes(bytes) else {
        return;
    };
    assert!(serde_json::from_slice::<IgnoredAny>(bytes).is_ok());
    assert_eq!(CanonicalJson::of_bytes(form.as_bytes()).unwrap(), form);
    if let Ok(value) = serde_json::from_slice::<Value>(bytes) {
        let again: Value = serde_json::from_slice(form.as_bytes()).unwrap();
        assert_eq!(again, value);
    }
}

proptest! {
    #[test]
    fn spacing_order_and_spelling_do_not_matter(
        node in node(), one in chance(), other in chance()
    ) {
        let (one, other) = (written(&node, one), written(&node, other));
        prop_assert_eq!(canonical(&one), canonical(&other), "{} {}", one, other);
        check_bytes(one.as_bytes());
    }

    #[test]
    fn everything_else_matters(
        one in node(), other in node(), style in chance(), other_style in chance()
    ) {
        let forms = (canonical(&written(&one, style)), canonical(&written(&other, other_style)));
        prop_assert_eq!(one == other, forms.0 == forms.1, "{:?}", forms);
    }

    #[test]
    fn one_leaf_matters(
        node in node(), one in number(), other in number(), style in chance()
    ) {
        let with = |leaf: &Node| Node::List(vec![node.clone(), leaf.clone()]);
        let forms = [&one, &other].map(|leaf| canonical(&written(&with(leaf), style.clone())));
        prop_assert_eq!(one == other, forms[0] == forms[1], "{:?}", forms);
    }

    #[test]
    fn a_value_and_its_text_have_one_form(node in node(), style in chance()) {
        let text = written(&node, style);
        // What a value cannot keep it does not have.
        let Ok(value) = serde_json::from_str::<Value>(&text) else { return Ok(()) };
        let form = match CanonicalJson::of_value(&value) {
            Ok(form) => form,
            Err(JsonError::Inexact { .. }) => return Ok(()),
            Err(error) => panic!("{text}: {error}"),
        };
        for text in [
            serde_json::to_string(&value).unwrap(),
            serde_json::to_string_pretty(&value).unwrap(),
        ] {
            prop_assert_eq!(&CanonicalJson::of_text(&text).unwrap(), &form, "{}", text);
        }
        if Node::of(&value) == node {
            prop_assert_eq!(&CanonicalJson::of_text(&text).unwrap(), &form, "{}", text);
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        check_bytes(&bytes);
    }

    #[test]
    fn what_is_nearly_json_never_panics(text in "[\\[\\]{}\":,0-9.eE+\\-a\\\\u ]{0,24}") {
        check_bytes(text.as_bytes());
    }
}
