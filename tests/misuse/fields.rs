//! What does not belong in a field or a number, and the code that says so. A field or a parameter
//! without an entry here is a failed test.

use super::fixtures::Value;
use super::header::{Function, Header, Named};

const UINT_MAX: i64 = u32::MAX as i64;

/// A value and the names of codes, without `TERN_ERROR_`, one of which it must give; `OK` is one.
pub(crate) type Wrong = (Value, &'static [&'static str]);

const OK: &[&str] = &["OK"];
const INVALID: &[&str] = &["INVALID_ARGUMENT"];
const UNSUPPORTED: &[&str] = &["UNSUPPORTED"];
const DEADLINE: &[&str] = &["DEADLINE"];
const ABORTED: &[&str] = &["ABORTED"];
const NOT_READY: &[&str] = &["NOT_READY"];

fn ints(values: &[i64], codes: &'static [&'static str]) -> Vec<Wrong> {
    values.iter().map(|&v| (Value::Int(v), codes)).collect()
}

fn floats(values: &[f32]) -> Vec<Wrong> {
    values.iter().map(|&v| (Value::Float(v), INVALID)).collect()
}

/// What is no number of a range that begins above `low` and ends below `high`.
fn outside(low: f32, high: f32) -> Vec<Wrong> {
    floats(&[f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY, low, high, f32::MIN, f32::MAX])
}

/// Numbers that are none of the constants with a prefix.
fn strangers(header: &Header, prefix: &str) -> Vec<Wrong> {
    let known: Vec<i64> = header
        .constants
        .iter()
        .filter(|(name, _)| {
            let rest = name.strip_prefix(prefix);
            // TERN_KV_ is a prefix of other families', too.
            rest.is_some_and(|rest| {
                prefix != "TERN_KV_"
                    || !["POLICY_", "OP_", "SEGMENT_"].iter().any(|p| rest.starts_with(p))
            })
        })
        .map(|(_, value)| i64::from(*value))
        .collect();
    let most = *known.iter().max().unwrap_or_else(|| panic!("no constant {prefix}*"));
    let least = *known.iter().min().expect("one, as above");
    let near = [least - 1, most + 1].into_iter().filter(|n| *n >= 0);
    let gaps = (0..most).filter(|n| !known.contains(n)).take(3);
    let far = [most + 2, 255, 256, 65536, i64::from(i32::MAX), 1 << 31, UINT_MAX - 1, UINT_MAX];
    let mut wrong: Vec<i64> = gaps.chain(near).chain(far).collect();
    wrong.sort_unstable();
    wrong.dedup();
    ints(&wrong, INVALID)
}

/// Wrong values of a field of a struct that is read.
pub(crate) fn of_field(
    header: &Header,
    function: &Function,
    name: &str,
    field: &Named,
) -> Vec<Wrong> {
    let family = match field.ty.as_str() {
        "tern_load_mode" => Some("TERN_LOAD_"),
        "tern_lock" => Some("TERN_LOCK_"),
        "tern_huge_pages" => Some("TERN_HUGE_PAGES_"),
        "tern_kv_dtype" => Some("TERN_KV_"),
        "tern_when_full" => Some("TERN_WHEN_FULL_"),
        "tern_kv_policy" => Some("TERN_KV_POLICY_"),
        "tern_logits" => Some("TERN_LOGITS_"),
        _ => None,
    };
    let mut wrong = family.map_or_else(Vec::new, |prefix| strangers(header, prefix));
    let value = |name: &str| i64::from(header.constants[name]);
    wrong.extend(match (name, field.name.as_str()) {
        (_, "struct_size") => Vec::new(), // misuses.rs
        (_, "load_mode" | "lock_memory" | "huge_pages" | "when_full" | "kv_dtype") => Vec::new(),
        (_, "user_data") => ints(&[1], OK),
        (_, "deadline_ns") => ints(&[1, 1_000_000], DEADLINE),
        ("tern_model_params", "device") => ints(&[1, 2, 1 << 31, UINT_MAX], INVALID),
        ("tern_model_params", "screened_head") => ints(&[1, 2, UINT_MAX], OK),
        // Addresses at which no struct can be.
        ("tern_model_params", "trust") => ints(&[1, 2, 3, 4], INVALID),
        // Which a plan does not call.
        ("tern_model_params", "progress") if function.name == "tern_model_plan" => {
            vec![(Value::Callback(2), OK)]
        }
        ("tern_model_params", "progress") => vec![(Value::Callback(2), ABORTED)],
        ("tern_session_params", "n_ctx" | "n_threads" | "n_threads_prefill") => {
            ints(&[1 << 31, UINT_MAX], INVALID)
        }
        // More than there can be is as many as there are.
        ("tern_session_params", "n_batch" | "n_logits") => ints(&[1 << 31, UINT_MAX], OK),
        ("tern_session_params", "n_sink" | "n_keep") => ints(&[1 << 31, UINT_MAX], OK),
        // Those that choose both types are for `kv_dtype` alone.
        ("tern_session_params", "k_dtype" | "v_dtype") => {
            let both = ["TERN_KV_BALANCED", "TERN_KV_SMALL", "TERN_KV_TINY"].map(value);
            ints(&both, INVALID)
        }
        ("tern_session_params", "kv_policy") => ints(&[value("TERN_KV_POLICY_KVZIP")], UNSUPPORTED),
        ("tern_session_params", "kv_budget") => ints(&[25, 96, 97, 1 << 31, UINT_MAX], INVALID),
        ("tern_session_params", "kv_budget_part") => outside(-0.001, 1.001),
        ("tern_session_params", "kv_share") => ints(&[1, 2, UINT_MAX], OK),
        ("tern_eval_params", "logits") => {
            ints(&[value("TERN_LOGITS_POSITIONS")], OK) // of none
        }
        ("tern_eval_params", "positions") => ints(&[1], OK), // of none, it is not looked at
        ("tern_eval_params", "n_positions") => ints(&[1, i64::MAX, -1], INVALID),
        ("tern_kv_evict_params", "policy") => {
            ints(&[value("TERN_KV_POLICY_ATTN"), value("TERN_KV_POLICY_H2O")], UNSUPPORTED)
        }
        ("tern_kv_evict_params", "n_sink" | "n_keep") => ints(&[1 << 31, UINT_MAX], OK),
        ("tern_kv_rebuild_params", "kv_budget") => ints(&[1 << 31, UINT_MAX], OK),
        ("tern_kv_segment", "from_pos") => ints(&[2, 3, UINT_MAX], INVALID),
        ("tern_kv_segment", "to_pos") => ints(&[0], INVALID),
        ("tern_kv_segment", "ttl") => ints(&[UINT_MAX], OK),
        ("tern_kv_segment", "priority") => {
            ints(&[-129, 128, i64::from(i32::MIN), i64::from(i32::MAX)], INVALID)
        }
        ("tern_kv_segment", "flags") => ints(&[2, 3, 1 << 31, UINT_MAX], INVALID),
        ("tern_sampler_params", "top_k" | "seed") => ints(&[UINT_MAX], OK),
        ("tern_sampler_params", "top_p" | "min_p" | "typical_p") => outside(-0.001, 1.001),
        ("tern_sampler_params", "temperature") => outside(-0.001, 100.01),
        ("tern_sampler_params", "repeat_penalty") => {
            let mut wrong = outside(-1.0, 100.01);
            wrong.extend(floats(&[0.009, 1.0e-30]));
            wrong
        }
        ("tern_sampler_params", "frequency_penalty" | "presence_penalty") => {
            outside(-100.01, 100.01)
        }
        ("tern_sampler_params", "penalty_last_n") => ints(&[1_048_577, UINT_MAX], INVALID),
        ("tern_sampler_params", "n_logprobs") => ints(&[65, 1 << 31, UINT_MAX], INVALID),
        ("tern_sampler_params", "reserved") => ints(&[1, UINT_MAX], UNSUPPORTED),
        ("tern_sampler_params", "logit_bias") => ints(&[1], OK), // of none, it is not looked at
        ("tern_sampler_params", "n_logit_bias") => ints(&[1, i64::MAX, -1], INVALID), // of NULL
        ("tern_generate_params", "n_draft") => ints(&[4, 1 << 31, UINT_MAX], INVALID),
        (name, field) => {
            panic!("tests/misuse/fields.rs does not know what is wrong in {name}.{field}")
        }
    });
    wrong
}

/// Wrong values of a parameter that is a number, but no length.
pub(crate) fn of_param(header: &Header, function: &Function, param: &Named) -> Vec<Wrong> {
    let token = [-1, 288, i64::from(i32::MIN), i64::from(i32::MAX)];
    let positions = [9, 1 << 31, UINT_MAX];
    match (function.name.as_str(), param.name.as_str()) {
        ("tern_status_name", "status") => {
            ints(&[1, -1000, i64::from(i32::MIN), i64::from(i32::MAX)], &["1"])
        }
        ("tern_log_set", "level") => ints(&[5, UINT_MAX], OK),
        ("tern_device_describe", "index") => ints(&[1, 1 << 31, UINT_MAX], INVALID),
        ("tern_model_metadata_at", "index") => ints(&[1000, 1 << 31, UINT_MAX], INVALID),
        ("tern_session_logits_at", "index") => ints(&[1, i64::MAX, -1], INVALID),
        ("tern_session_kv_segment_at", "index") => ints(&[1, 1 << 31, UINT_MAX], INVALID),
        ("tern_model_load_fd", "fd") => ints(&[-1, -2, 1 << 20, i64::from(i32::MIN)], &["IO"]),
        // Behind the end there is no file, and what stands within is not one.
        ("tern_model_load_fd", "offset") => {
            let mut wrong = ints(&[1, 64, 4096], &["BAD_FILE"]);
            wrong.extend(ints(&[1 << 40, i64::MAX, -1, i64::MIN], INVALID));
            wrong
        }
        ("tern_model_load_fd", "length") => {
            let mut wrong = ints(&[1, 4, 24, 4096], &["BAD_FILE", "BAD_TENSOR"]);
            wrong.extend(ints(&[1 << 40, i64::MAX, -1], INVALID));
            wrong
        }
        (_, "flags") => {
            let known = match function.name.as_str() {
                "tern_model_tokenize" => 3,
                _ => 0,
            };
            ints(&[known + 1, known << 1 | 1 << 30, 1 << 31, UINT_MAX], INVALID)
        }
        (_, "add_generation_prompt") => ints(&[2, 1 << 31, UINT_MAX], INVALID),
        ("tern_model_token_is_eog", "token") => ints(&token, OK), // false
        // A sampler knows of no vocabulary.
        ("tern_sampler_accept", "token") => ints(&[-1, i64::from(i32::MIN)], INVALID),
        (_, "token") => ints(&token, INVALID),
        (_, "from_pos") => ints(&[4, UINT_MAX], INVALID),
        ("tern_session_kv_evict_range", "to_pos") => {
            let mut wrong = ints(&[0, 1], INVALID);
            wrong.extend(ints(&[9, UINT_MAX], OK)); // no tokens there
            wrong
        }
        (_, "pos") => ints(&positions, INVALID),
        (_, "n_threads") => ints(&[0, 100_000, UINT_MAX], INVALID),
        (_, "n_threads_prefill") => ints(&[100_000, UINT_MAX], INVALID),
        (_, "n_slots") => ints(&[0, UINT_MAX], OK),
        ("tern_session_kv_can", "op") => strangers(header, "TERN_KV_OP_"),
        (function, name) => {
            panic!("tests/misuse/fields.rs does not know what is wrong as {name} of {function}")
        }
    }
}

/// What a session without tokens answers, where that is not what others answer.
pub(crate) fn of_empty(function: &str) -> Option<&'static [&'static str]> {
    match function {
        "tern_session_logits"
        | "tern_session_logits_at"
        | "tern_sampler_sample"
        | "tern_session_generate"
        | "tern_session_kv_rebuild" => Some(NOT_READY),
        _ => None,
    }
}

/// What so many bytes or elements as 0 are, in a call that is otherwise valid.
pub(crate) fn of_none(function: &str, param: &str) -> &'static [&'static str] {
    match (function, param) {
        ("tern_model_load_memory", _) => &["BAD_FILE"],
        ("tern_session_read", _) => &["SNAPSHOT_CORRUPT"],
        ("tern_session_eval" | "tern_session_eval_with", _) => INVALID,
        ("tern_model_tokenize" | "tern_model_detokenize" | "tern_model_chat_format", _) => OK,
        (function, param) => {
            panic!("tests/misuse/fields.rs does not know what {function} does with no {param}")
        }
    }
}
