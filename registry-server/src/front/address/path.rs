//! Decoding paths.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

/// Decodes a path, once, and refuses what two readers might read in two ways.
pub(super) fn decode(path: &str) -> Result<Cow<'_, str>, &'static str> {
    if is_plain(path) {
        return Ok(Cow::Borrowed(path));
    }
    let encodes = |digits: &str| {
        let mut escapes = path.split('%').skip(1);
        escapes.any(|rest| {
            rest.get(..2)
                .is_some_and(|two| two.eq_ignore_ascii_case(digits))
        })
    };
    if encodes("2f") || encodes("5c") {
        return Err("holds an encoded slash");
    }
    let decoded = percent_decode_str(path)
        .decode_utf8()
        .map_err(|_| "holds a character that no name has")?;
    if decoded.contains('%') {
        return Err("is encoded twice, or holds a % that encodes nothing");
    }
    if !decoded.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err("holds a character that no name has");
    }
    if decoded.contains('\\') {
        return Err("holds a backslash");
    }
    if decoded.contains("//") {
        return Err("holds an empty component");
    }
    if decoded.split('/').any(|part| matches!(part, "." | "..")) {
        return Err("holds a component that climbs");
    }
    Ok(decoded)
}

/// Whether nothing of a path has to be decoded, and nothing in it can be refused: so it is with
/// nearly all, which are then looked at no further. The others may be right or wrong.
fn is_plain(path: &str) -> bool {
    let bytes = path.as_bytes();
    let is_plain = |byte: u8| byte.is_ascii_graphic() && byte != b'%' && byte != b'\\';
    // Without a way out in the middle, many bytes are looked at together.
    let characters = bytes.iter().fold(true, |all, byte| all & is_plain(*byte));
    let is_odd = |(one, next): (&u8, &u8)| (*one == b'/') & ((*next == b'/') | (*next == b'.'));
    let pairs = bytes.iter().zip(&bytes[bytes.len().min(1)..]);
    let odd = pairs.fold(false, |any, pair| any | is_odd(pair));
    characters && !odd && path.starts_with('/')
}
