//! Variables in the values of compose files: `$NAME`, `${NAME}`, and what may stand in for them.

/// Deepest nesting of variables in what stands in for variables.
const DEPTH_MAX: usize = 8;

/// A value with its variables replaced, as compose does it.
///
/// # Errors
///
/// Which variable is not set, or what is wrong with the text.
pub(super) fn interpolate(
    text: &str,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<String, String> {
    replace(text, env, 0)
}

fn replace(
    text: &str,
    env: &dyn Fn(&str) -> Option<String>,
    depth: usize,
) -> Result<String, String> {
    if depth > DEPTH_MAX {
        return Err(format!(
            "variables in variables, more than {DEPTH_MAX} deep"
        ));
    }
    let mut value = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        value.push_str(before);
        if let Some(after) = after.strip_prefix('$') {
            value.push('$');
            rest = after;
        } else if let Some(after) = after.strip_prefix('{') {
            let end = closing(after).ok_or_else(|| format!("\"{text}\" has no }} for its ${{"))?;
            value.push_str(&expand(&after[..end], env, depth)?);
            rest = &after[end + 1..];
        } else {
            let end = name_length(after);
            let name = &after[..end];
            if name.is_empty() {
                return Err(format!(
                    "\"{text}\" has a $ without a name; $$ stands for $"
                ));
            }
            value.push_str(&env(name).ok_or_else(|| unset(name))?);
            rest = &after[end..];
        }
    }
    value.push_str(rest);
    Ok(value)
}

/// What stands between the braces, replaced.
fn expand(
    inside: &str,
    env: &dyn Fn(&str) -> Option<String>,
    depth: usize,
) -> Result<String, String> {
    let end = name_length(inside);
    let (name, operator) = inside.split_at(end);
    if name.is_empty() {
        return Err(format!("\"${{{inside}}}\" names no variable"));
    }
    let set = env(name);
    let filled = set.clone().filter(|value| !value.is_empty());
    let other = |text: &str| replace(text, env, depth + 1);
    let operand = |length: usize| &operator[length..];
    match operator {
        "" => set.ok_or_else(|| unset(name)),
        _ if operator.starts_with(":-") => filled.map_or_else(|| other(operand(2)), Ok),
        _ if operator.starts_with('-') => set.map_or_else(|| other(operand(1)), Ok),
        _ if operator.starts_with(":+") => filled.map_or(Ok(String::new()), |_| other(operand(2))),
        _ if operator.starts_with('+') => set.map_or(Ok(String::new()), |_| other(operand(1))),
        _ if operator.starts_with(":?") => filled.ok_or_else(|| wanted(name, operand(2))),
        _ if operator.starts_with('?') => set.ok_or_else(|| wanted(name, operand(1))),
        _ => Err(format!(
            "\"${{{inside}}}\" is no variable of a compose file"
        )),
    }
}

/// Where the brace is that closes the one before `text`.
fn closing(text: &str) -> Option<usize> {
    let mut open = 1;
    for (index, sign) in text.bytes().enumerate() {
        match sign {
            b'{' => open += 1,
            b'}' => open -= 1,
            _ => {}
        }
        if open == 0 {
            return Some(index);
        }
    }
    None
}

/// How many bytes of the text are the name that it begins with.
fn name_length(text: &str) -> usize {
    let is_name = |sign: u8| sign.is_ascii_alphanumeric() || sign == b'_';
    text.bytes().take_while(|sign| is_name(*sign)).count()
}

fn unset(name: &str) -> String {
    format!("the variable {name} is not set, and has no default")
}

fn wanted(name: &str, message: &str) -> String {
    match message {
        "" => format!("the variable {name} is not set"),
        _ => format!("the variable {name} is not set: {message}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(name: &str) -> Option<String> {
        match name {
            "TAG" => Some("1.2".to_owned()),
            "EMPTY" => Some(String::new()),
            _ => None,
        }
    }

    #[test]
    fn variables_are_replaced_as_compose_does() {
        for (text, wanted) in [
            ("app", "app"),
            ("app:$TAG", "app:1.2"),
            ("app:$TAG-alpine", "app:1.2-alpine"),
            ("app:${TAG}", "app:1.2"),
            ("app:${NONE:-3}", "app:3"),
            ("app:${NONE-3}", "app:3"),
            ("app:${EMPTY:-3}", "app:3"),
            ("app${EMPTY-3}", "app"),
            ("app${EMPTY}", "app"),
            ("app${TAG:+:set}", "app:set"),
            ("app${NONE:+:set}", "app"),
            ("app${EMPTY+:set}", "app:set"),
            (
                "${A:-${B:-reg.example.org/}}app:${TAG:?needed}",
                "reg.example.org/app:1.2",
            ),
            ("a$$b", "a$b"),
        ] {
            assert_eq!(interpolate(text, &env).as_deref(), Ok(wanted), "{text}");
        }
    }

    #[test]
    fn what_cannot_be_replaced_is_named() {
        let deep = "${A:-".repeat(10) + &"}".repeat(10);
        for (text, wanted) in [
            ("app:$NONE", "NONE is not set, and has no default"),
            ("app:${NONE}", "NONE is not set"),
            ("app:${EMPTY:?say which}", "EMPTY is not set: say which"),
            ("app:${NONE?}", "NONE is not set"),
            ("app:${TAG", "has no }"),
            ("app:${}", "names no variable"),
            ("app:$", "a $ without a name"),
            ("app:${TAG/1/2}", "is no variable of a compose file"),
            (&deep, "more than 8 deep"),
        ] {
            let problem = interpolate(text, &env).expect_err(text);
            assert!(problem.contains(wanted), "{text}: {problem}");
        }
    }
}
