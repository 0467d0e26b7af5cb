//! Whether two values are the same, as far as serde shows them.
//!
//! Decoding to the last byte is not enough: a skipped field moves the ones
//! after it, and what is left over may by chance be read as another value of
//! the same length. So the value and what was decoded are compared field by
//! field, through a serializer that only digests what it is shown. Sequences
//! and maps are compared without their order, which hash sets and hash maps do
//! not keep. It guards against mistakes, not against an adversary: 64 bits.

use std::fmt::{self, Display};

use serde::ser::{self, Serialize};

/// A digest of what `value` shows to serde; equal values give equal digests.
///
/// # Errors
///
/// What the value's own `Serialize` says.
pub(crate) fn fingerprint<T: Serialize + ?Sized>(
    value: &T,
    human_readable: bool,
) -> Result<u64, NotShown> {
    value.serialize(Fingerprint { human_readable })
}

/// The value's `Serialize` refused.
#[derive(Debug)]
pub(crate) struct NotShown(String);

impl Display for NotShown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for NotShown {}

impl ser::Error for NotShown {
    fn custom<T: Display>(message: T) -> NotShown {
        NotShown(message.to_string())
    }
}

/// What is shown; part of every digest, so that `1_u8`, `1_i64` and `true` differ.
#[derive(Clone, Copy)]
enum Tag {
    Bool = 1,
    I8,
    I16,
    I32,
    I64,
    I128,
    U8,
    U16,
    U32,
    U64,
    U128,
    F32,
    F64,
    Char,
    Str,
    Bytes,
    None,
    Some,
    Unit,
    Seq,
    Tuple,
    Map,
    Entry,
    Struct,
    Variant,
}

/// The finalizer of SplitMix64: every bit of the input moves every bit.
fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

fn join(left: u64, right: u64) -> u64 {
    mix(left.rotate_left(23) ^ mix(right))
}

fn leaf(tag: Tag, value: u64) -> u64 {
    mix(mix(tag as u64) ^ value)
}

fn wide(tag: Tag, value: u128) -> u64 {
    join(leaf(tag, value as u64), (value >> 64) as u64)
}

/// Eight bytes at a time: states are mostly text, and each is shown twice.
fn text(tag: Tag, bytes: &[u8]) -> u64 {
    let mut digest = leaf(tag, bytes.len() as u64);
    let (words, rest) = bytes.as_chunks::<8>();
    for word in words {
        digest = (digest.rotate_left(23) ^ u64::from_le_bytes(*word)).wrapping_mul(SPREAD);
    }
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    join(digest, u64::from_le_bytes(last))
}

/// Odd, so that multiplying by it loses nothing.
const SPREAD: u64 = 0xbf58_476d_1ce4_e5b9;

#[derive(Clone, Copy)]
struct Fingerprint {
    human_readable: bool,
}

impl Fingerprint {
    fn group(self, tag: Tag) -> Group {
        Group {
            inner: self,
            digest: mix(tag as u64),
            members: 0,
            key: 0,
        }
    }

    fn variant(self, index: u32, name: &str) -> Group {
        let mut group = self.group(Tag::Variant);
        group.digest = join(group.digest, u64::from(index));
        group.digest = join(group.digest, text(Tag::Str, name.as_bytes()));
        group
    }
}

/// A sequence, map, tuple or struct that is being shown.
struct Group {
    inner: Fingerprint,
    digest: u64,
    members: u64,
    /// Digest of the map key whose value comes next.
    key: u64,
}

type Shown<T = u64> = Result<T, NotShown>;

impl Group {
    fn in_order(&mut self, member: u64) {
        self.digest = join(self.digest, member);
        self.members += 1;
    }

    /// Every digest comes out of `mix`, so their sum is as good as a digest.
    fn in_any_order(&mut self, member: u64) {
        self.digest = self.digest.wrapping_add(member);
        self.members += 1;
    }

    fn field<T: Serialize + ?Sized>(&mut self, name: &str, value: &T) -> Shown<()> {
        let value = value.serialize(self.inner)?;
        self.in_order(join(text(Tag::Entry, name.as_bytes()), value));
        Ok(())
    }

    fn finish(self) -> Shown {
        Ok(join(self.digest, self.members))
    }
}

macro_rules! leaves {
    ($($method:ident($type:ty) => $value:expr;)+) => {
        $(
            fn $method(self, value: $type) -> Shown {
                let shown: fn($type) -> u64 = $value;
                Ok(shown(value))
            }
        )+
    };
}

impl ser::Serializer for Fingerprint {
    type Ok = u64;
    type Error = NotShown;
    type SerializeSeq = Group;
    type SerializeTuple = Group;
    type SerializeTupleStruct = Group;
    type SerializeTupleVariant = Group;
    type SerializeMap = Group;
    type SerializeStruct = Group;
    type SerializeStructVariant = Group;

    fn is_human_readable(&self) -> bool {
        self.human_readable
    }

    leaves! {
        serialize_bool(bool) => |v| leaf(Tag::Bool, v.into());
        serialize_i8(i8) => |v| leaf(Tag::I8, v.cast_unsigned().into());
        serialize_i16(i16) => |v| leaf(Tag::I16, v.cast_unsigned().into());
        serialize_i32(i32) => |v| leaf(Tag::I32, v.cast_unsigned().into());
        serialize_i64(i64) => |v| leaf(Tag::I64, v.cast_unsigned());
        serialize_i128(i128) => |v| wide(Tag::I128, v.cast_unsigned());
        serialize_u8(u8) => |v| leaf(Tag::U8, v.into());
        serialize_u16(u16) => |v| leaf(Tag::U16, v.into());
        serialize_u32(u32) => |v| leaf(Tag::U32, v.into());
        serialize_u64(u64) => |v| leaf(Tag::U64, v);
        serialize_u128(u128) => |v| wide(Tag::U128, v);
        serialize_f32(f32) => |v| leaf(Tag::F32, v.to_bits().into());
        serialize_f64(f64) => |v| leaf(Tag::F64, v.to_bits());
        serialize_char(char) => |v| leaf(Tag::Char, u32::from(v).into());
        serialize_str(&str) => |v| text(Tag::Str, v.as_bytes());
        serialize_bytes(&[u8]) => |v| text(Tag::Bytes, v);
        serialize_unit_struct(&'static str) => |_| leaf(Tag::Unit, 0);
    }

    fn serialize_none(self) -> Shown {
        Ok(leaf(Tag::None, 0))
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Shown {
        Ok(leaf(Tag::Some, value.serialize(self)?))
    }

    fn serialize_unit(self) -> Shown {
        Ok(leaf(Tag::Unit, 0))
    }

    fn serialize_unit_variant(self, _: &'static str, index: u32, name: &'static str) -> Shown {
        self.variant(index, name).finish()
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, _: &'static str, value: &T) -> Shown {
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        index: u32,
        name: &'static str,
        value: &T,
    ) -> Shown {
        let mut group = self.variant(index, name);
        group.in_order(value.serialize(self)?);
        group.finish()
    }

    fn serialize_seq(self, _: Option<usize>) -> Shown<Group> {
        Ok(self.group(Tag::Seq))
    }

    fn serialize_tuple(self, _: usize) -> Shown<Group> {
        Ok(self.group(Tag::Tuple))
    }

    fn serialize_tuple_struct(self, _: &'static str, _: usize) -> Shown<Group> {
        Ok(self.group(Tag::Tuple))
    }

    fn serialize_tuple_variant(
        self,
        _: &'static str,
        index: u32,
        name: &'static str,
        _: usize,
    ) -> Shown<Group> {
        Ok(self.variant(index, name))
    }

    fn serialize_map(self, _: Option<usize>) -> Shown<Group> {
        Ok(self.group(Tag::Map))
    }

    fn serialize_struct(self, _: &'static str, _: usize) -> Shown<Group> {
        Ok(self.group(Tag::Struct))
    }

    fn serialize_struct_variant(
        self,
        _: &'static str,
        index: u32,
        name: &'static str,
        _: usize,
    ) -> Shown<Group> {
        Ok(self.variant(index, name))
    }
}

impl ser::SerializeSeq for Group {
    type Ok = u64;
    type Error = NotShown;

    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Shown<()> {
        let member = value.serialize(self.inner)?;
        self.in_any_order(member);
        Ok(())
    }

    fn end(self) -> Shown {
        self.finish()
    }
}

impl ser::SerializeMap for Group {
    type Ok = u64;
    type Error = NotShown;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Shown<()> {
        self.key = key.serialize(self.inner)?;
        Ok(())
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Shown<()> {
        let value = value.serialize(self.inner)?;
        self.in_any_order(join(leaf(Tag::Entry, self.key), value));
        Ok(())
    }

    fn end(self) -> Shown {
        self.finish()
    }
}

macro_rules! ordered {
    ($($trait:ident :: $method:ident;)+) => {
        $(
            impl ser::$trait for Group {
                type Ok = u64;
                type Error = NotShown;

                fn $method<T: Serialize + ?Sized>(&mut self, value: &T) -> Shown<()> {
                    let member = value.serialize(self.inner)?;
                    self.in_order(member);
                    Ok(())
                }

                fn end(self) -> Shown {
                    self.finish()
                }
            }
        )+
    };
}

ordered! {
    SerializeTuple::serialize_element;
    SerializeTupleStruct::serialize_field;
    SerializeTupleVariant::serialize_field;
}

macro_rules! named {
    ($($trait:ident;)+) => {
        $(
            impl ser::$trait for Group {
                type Ok = u64;
                type Error = NotShown;

                fn serialize_field<T: Serialize + ?Sized>(
                    &mut self,
                    name: &'static str,
                    value: &T,
                ) -> Shown<()> {
                    self.field(name, value)
                }

                fn end(self) -> Shown {
                    self.finish()
                }
            }
        )+
    };
}

named! {
    SerializeStruct;
    SerializeStructVariant;
}

#[cfg(test)]
mod tests;
