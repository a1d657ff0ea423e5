//! Loading a model and making a session as the common options say.

use std::sync::Arc;

use tern::engine::{Input, Model, ModelParams, Session, SessionParams, kv_preset};

use super::args::{Common, KvBudget, Result};
use super::output::{Progress, bytes};

/// Cells of the KV cache where nobody says, or fewer if the model was trained on fewer: enough for
/// a talk, and at most a few hundred megabytes for the models that this is made for.
const DEFAULT_CTX: u32 = 4096;

/// The model's parameters that the common options give.
pub(crate) fn model_params(common: &Common) -> ModelParams {
    ModelParams {
        load_mode: common.load_mode,
        screened_head: common.screened_head,
        ..ModelParams::default()
    }
}

/// Loads the model, with a line of progress on a terminal.
pub(crate) fn model(common: &Common) -> Result<Arc<Model>> {
    let params = model_params(common);
    let mut progress = Progress::new();
    let model = Model::load(Input::Path(common.model()?), &params, &mut |done, total| {
        let percent = (done as f64 / total.max(1) as f64 * 100.0) as u32;
        progress.show(format!("loading {percent:3} % of {}", bytes(total)));
        true
    })?;
    Ok(Arc::new(model))
}

/// Cells of the KV cache for a model: those asked for, else a sensible number.
pub(crate) fn n_ctx(common: &Common, model: &Model) -> u32 {
    match common.n_ctx {
        None => model.info().n_ctx_train.min(DEFAULT_CTX),
        Some(0) => model.info().n_ctx_train,
        Some(n) => n,
    }
}

/// The session's parameters that the common options give.
pub(crate) fn session_params(common: &Common, model: &Model) -> SessionParams {
    let (kv_budget, kv_budget_part) = match common.kv_budget {
        None => (0, 0.0),
        Some(KvBudget::Slots(n)) => (n, 0.0),
        Some(KvBudget::Percent(percent)) => (0, percent / 100.0),
    };
    let params = SessionParams {
        n_ctx: n_ctx(common, model),
        kv_policy: common.kv_policy,
        kv_budget,
        kv_budget_part,
        n_batch: common.n_batch,
        n_threads: common.n_threads,
        n_threads_batch: common.n_threads_batch,
        numerics: common.numerics,
        ..SessionParams::default()
    };
    with_kv_types(params, common.kv_types)
}

/// Parameters with these types of keys and of values, or a preset.
pub(crate) fn with_kv_types(params: SessionParams, (k, v): (u32, u32)) -> SessionParams {
    if kv_preset(k).is_some() {
        return SessionParams { kv_dtype: k, k_dtype: 0, v_dtype: 0, ..params };
    }
    // The fields for keys and for values alone cannot say F16: `kv_dtype` says it then.
    let kv_dtype = if k == 0 || v == 0 { 0 } else { k };
    SessionParams { kv_dtype, k_dtype: k, v_dtype: v, ..params }
}

/// Makes a session.
pub(crate) fn session(model: &Arc<Model>, params: &SessionParams) -> Result<Session> {
    Ok(Session::new(Arc::clone(model), params)?)
}
