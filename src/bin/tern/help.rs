//! What `tern help` says. Also the contract with scripts: whoever changes output changes this.

/// The page of a command.
pub(crate) fn of(command: &str) -> Option<&'static str> {
    Some(match command {
        "run" => RUN,
        "chat" => CHAT,
        "tokenize" => TOKENIZE,
        "inspect" => INSPECT,
        "pack" => PACK,
        "manifest" => MANIFEST,
        "perplexity" => PERPLEXITY,
        "bench" => BENCH,
        "kv-eval" => KV_EVAL,
        _ => return None,
    })
}

/// The first page.
pub(crate) const MAIN: &str = "\
tern: language models on the machine itself

  tern run         answer one prompt
  tern chat        talk
  tern tokenize    turn text into tokens
  tern inspect     check and describe a model's file
  tern pack        write a model's file again, so that it loads at once
  tern manifest    sign a model, or check that it is what was signed
  tern perplexity  measure how well a model predicts a text
  tern bench       measure speed and memory
  tern kv-eval     measure what a model loses when its KV cache keeps only a part
  tern help [COMMAND], tern COMMAND --help
  tern --version

Models are GGUF files. All commands with a model take these:
  -m, --model FILE      the model
  -t, --threads N       threads; default: one for each fast core
      --threads-batch N threads for prompts; default: the same
      --ctx N           tokens of context; default: 4096, or fewer if the model was
                        trained on fewer; 0: as many as the model was trained on
  -b, --batch N         tokens evaluated at once; default: 192
      --numerics N      exact: a prompt gives the same numbers however it is cut (default);
                        fast: weights rounded once more for prompts of 32 tokens on
      --screened-head   greedy text from about half of a head of 8 bits; takes memory
      --kv-type TYPE    what keys and values are stored as: f16 (default), f32, q8_0, q5_0, q4_0;
                        rotated: q5_h, q4_h, q3_h; TYPE,TYPE: keys, and values; balanced: q8_0,q4_h;
                        small: q5_h,q4_h; tiny: q8_0,q3_h
      --kv-policy P     what leaves the KV cache when it is too full: hybrid (default), attn, h2o,
                        snapkv, tova, keydiff, expected, knorm, streaming, random or ring;
                        `tern help kv-eval` says more
      --kv-budget N     slots of each KV head that stay in use as tokens come, or N% of --ctx;
                        default: what is full is an error, or half stays where text is endless
      --load-mode MODE  copy: into memory of its own; map-guarded: mapped, and watched for
                        changes; map-fast: mapped; default: copy if it takes at most half of
                        the free memory and the file is not packed, else map-guarded

Exit status: 0 done; 1 failed, with one line `error: NAME: sentence` on standard error, NAME
being that of the C API's status; 2 the command line was wrong. TERN_CPU=scalar|avx2|avx512_vnni|
amx_int8|neon|neon_dotprod|neon_i8mm steps down to simpler kernels.
";

const RUN: &str = "\
tern run -m MODEL (-p TEXT | -f FILE) [OPTIONS]: answers one prompt

The text goes to standard output as it is generated. Ctrl-C ends it.

  -p, --prompt TEXT     the prompt
  -f, --file FILE       read the prompt from a file; -: from standard input
      --system TEXT     what the system says before it
      --raw             no chat template: the model goes on with the text
  -n N                  at most so many tokens; default: 512
      --draft N         where the text repeats itself or the prompt, evaluate up to N tokens more
                        at once: the same text, sooner; 8 to 16 are good, at most 63; default: 0
      --endless         evict old tokens when the context is full, instead of ending
      --json            print one object when done, and no text before:
                        {\"text\", \"tokens\": [ids], \"n_prompt\", \"n_generated\",
                        \"prefill_tok_s\", \"decode_tok_s\", \"n_drafted\", \"n_accepted\",
                        \"stop\", \"seed\"}
                        stop: \"eog\" (the model ended), \"length\", \"context\" or \"aborted\";
                        a speed is null where nothing was measured

Sampling, in this order; 0 is off unless said otherwise:
      --repeat-penalty X --frequency-penalty X --presence-penalty X --penalty-last-n N
      --top-k N  --typical P  --top-p P (default 0.9)  --min-p P (default 0.05)
      --temp T          default 0.7; 0: always the most probable token
      --seed N          default: the clock; the same seed gives the same text on the same kernels

And the options of all commands, see `tern help`.
";

const CHAT: &str = "\
tern chat -m MODEL [OPTIONS]: a conversation

On a terminal: Ctrl-C ends an answer, /reset begins anew, /exit or Ctrl-D leaves. With standard
input from elsewhere each line is one turn. When the context is full the middle of the
conversation is forgotten, and the talk goes on.

      --system TEXT     what the system says first
  -n N                  at most so many tokens an answer; default: 1024
      --draft N         see `tern help run`

And the sampling options, see `tern help run`, and those of all commands, see `tern help`.
";

const TOKENIZE: &str = "\
tern tokenize -m MODEL [OPTIONS] [TEXT]: turns text into tokens

Prints a line for each token: its id and its text. Without TEXT, reads standard input. A file
with only a vocabulary is enough.

      --ids             print only the ids, on one line, with spaces between them
      --json            print the ids as a JSON array
      --no-special      do not add the tokens that begin or end a text
      --parse-special   text that spells a special token becomes that token
  -f, --file FILE       read the text from a file

And the options of all commands, see `tern help`.
";

const INSPECT: &str = "\
tern inspect [OPTIONS] FILE: checks and describes a model's file

Loads everything that a session would need. A file that can be used is described, with the
memory that a session with --ctx tokens takes; for one that cannot, the exit status is 1, and
standard error has one line `error: NAME: sentence`.

      --json            print one object: the architecture and its numbers, \"packed\" (whether
                        `tern pack` wrote it), \"dtypes\",
                        \"plan\" (bytes), \"chat_template\" (\"none\", \"ok\" or what is wrong),
                        \"metadata\" (long arrays as {\"len\", \"first\"})

And the options of all commands, see `tern help`.
";

const PACK: &str = "\
tern pack FROM TO: writes a model's file again, so that it loads at once

TO is a GGUF with all that FROM has, but its matrices lie as the kernels read them: loading it
copies nothing, and it evaluates as fast, and to the same numbers, as FROM does from memory of its
own. Each weight is checked, and not again when TO is loaded. TO appears when it is whole; a file
that was there is replaced. Only tern reads such a file, and only a version that knows its layout:
keep FROM.

      --json            print {\"bytes\"}, those of TO
";

const MANIFEST: &str = "\
tern manifest: signed manifests of models

  tern manifest --keygen NAME             make a pair of keys: NAME.key, which is secret and
                                          is never overwritten, and NAME.pub
  tern manifest --sign NAME.key --version N MODEL
                                          write MODEL.manifest: the SHA-256 of the header and of
                                          each tensor, signed; N counts up with a product's models
  tern manifest --verify NAME.pub MODEL   load MODEL as a program does that trusts the key

      --verify FILE     may be given more than once: one of the keys must have signed
      --min-version N   refuse a manifest with a lower version
      --json            print {\"key\"}; {\"manifest\", \"version\", \"key\"}; {\"version\", \"parts\",
                        \"bytes\"}
";

const PERPLEXITY: &str = "\
tern perplexity -m MODEL -f FILE [OPTIONS]: how well a model predicts a text

Windows of --ctx tokens (default 512) that do not overlap; the second half of each is scored.
If the model begins texts with a token of its own, that takes the first place of each window.

  -f, --file FILE       the text; -: standard input
      --stream          instead: the whole text through one cache, all tokens but the first scored.
                        With --kv-budget the cache forgets as tokens come; without, it begins anew
                        with its second half when it is full
      --limit N         the first N tokens of the text only
      --json            print {\"tokens\", \"nll\", \"ppl\"}: tokens scored, the mean of -ln p, and
                        its exponential; with --stream also \"worst_ppl\" and \"blocks\" of 8192
                        tokens, each {\"ppl\", \"rss_bytes\"}, \"rss_growth_bytes\" after the first
                        of them, \"evictions\" and \"slots\"

And the options of all commands, see `tern help`.
";

const BENCH: &str = "\
tern bench -m MODEL [OPTIONS]: measures speed and memory

  -p, --prompt N        tokens of the prompt; default: 512; 0: leave it out
  -n N                  tokens decoded; default: 128; 0: leave it out
  -d, --depth N,...     decode with so many tokens in the cache already; default: 0
  -t, --threads N,...   measure with each of these
  -r, --runs N          measure so often, after one run to warm up; default: 5
      --roof            also measure how fast the machine reads memory that no cache holds and how
                        fast it multiplies, and which part of that decoding and prefill reach
      --phases          also say how the time divides among the phases of the forward pass
      --busy N          decode a second time, in alternation, beside N busy processes
      --draft N         also go on with a text that repeats itself, greedily, in alternation
                        without drafts and with at most N a step; the text must be the same
      --text FILE       that text; default: one of this command's
      --screened-head   also write greedily, in alternation with the whole head and screened; the
                        text must be the same
      --json            print an array: one object for each test,
                        {\"test\", \"threads\", \"tok_s\": {\"min\", \"median\", \"max\"}, \"gb_s\",
                        \"gmac_s\", \"roof_gb_s\", \"roof_gmac_s\", \"share\", \"kept\", \"p50_us\",
                        \"p99_us\", \"max_us\"}, with --kv-budget also
                        \"eviction_stall\", and as its last element
                        {\"load_ms\", \"ttft_ms\", \"peak_rss_bytes\", \"isa\"}
                        test: \"prefill-N\", \"decode-N\", \"decode-N@DEPTH\", with \"+Nbusy\" after
                        it, \"repeat-N\" and \"repeat-N+draftN\" (with \"n_drafted\",
                        \"n_accepted\" and \"speedup\"), \"greedy-N\" and \"greedy-N+screened\"
                        (with \"screened\", the part of the tokens, and \"speedup\"), or
                        \"roof\" (without tok_s: null;
                        with \"median_gb_s\" beside the best)
                        gb_s: weights read per second; gmac_s: of a prefill, billions of
                        multiplications by weights per second; share: of decoding
                        gb_s / roof_gb_s, of a prefill gmac_s / roof_gmac_s; kept: the part of
                        the speed that is left beside busy processes; p50_us, p99_us and max_us:
                        of one eval; eviction_stall: how much longer than the
                        median the token takes that waits longest for evictions, as a part of
                        it: of each place in their timetable the median, so that what else the
                        machine does counts for little; null: not measured; with --phases also
                        \"phases\": {\"embed\",
                        \"qkv\", \"attend\", \"attn_out\", \"ffn_up\", \"ffn_down\", \"head\"},
                        parts of 1

With a peer, llama.cpp's llama-bench: each test as processes of their own, in turns, -r pairs:
      --compare         instead of all that; default: -d 0,4096; with --busy both beside N processes
      --peer COMMAND    default: llama-bench; words with spaces between, as in
                        \"chroot DIR llama-bench\"
      --peer-model FILE where the peer finds the model; default: the same
      --json            print an array: one object for each test,
                        {\"test\", \"threads\", \"unit\", \"tern\", \"peer\": {\"min\", \"median\",
                        \"max\"}, \"ratio\", \"ratio_min\", \"ratio_max\", \"tern_kept\",
                        \"peer_kept\"}, and {\"runs\", \"isa\", \"peer\"}
                        ratio: how many times better tern is, by the medians; least and most: of
                        the pairs; unit: \"tok_s\", or \"ms\" for \"first-token-8\": whole processes,
                        `tern run --raw -n 1` with a prompt of 8 tokens, and the peer's
                        `-p 8 -n 0 -r 1 --no-warmup`, which neither tokenizes nor samples

And the options of all commands, see `tern help`.
";

const KV_EVAL: &str = "\
tern kv-eval -m MODEL --text FILE --policy P [OPTIONS]: what a part of the KV cache is worth

Segments of the text go through the full cache in f16 and, beside it, through one that keeps a part.
By default a prompt is cut down once and the text goes on; what goes on is scored.

      --text FILE       the text; again for another
      --policy P        none: keep all; hybrid: recent tokens, those that draw attention, and those
                        that are unlike all others; attn: the first two of these; streaming: the
                        first four tokens and the most recent; and, to compare, h2o, snapkv, tova,
                        keydiff, expected, knorm, random, and ring: the most recent only; kvzip:
                        what the text is seen to need when it is read once more, not with
                        --greedy; needles \"streamed\" are asked for when all of it was cut
                        down once
      --budget X        the part of the prompt's or the stream's tokens that stays; default: 0.2,
                        in a suite with a model that has layers with windows 0.5
      --prompt N        tokens before the cut; default: 1024
      --generate N      tokens after it; default: 256
      --stream N        instead: N tokens through a cache that never holds more than the budget and
                        128 tokens; the second half is scored
      --needles N       also hide N codes in prompts of --prompt tokens and ask for them
      --greedy N        also let both caches write N tokens after a prompt of N/4, this one with N/4
                        slots
      --composition     also compare, bit by bit, how sessions go on that are forked, restored
                        from a file, rolled back, written with drafts, or begun with another's
                        tokens; another bit is an error
      --segments N      segments of each text, spread over it; default: 8
      --seed N          which segments, needles and resamples; default: 1
      --kv-type TYPE    of the smaller cache; the full one is f16 always. With --policy none and
                        f32: what rounding alone costs, and so what cannot be told from nothing
      --json            print one object: {\"policy\", \"kv_types\": [keys, values], \"test\": \"once\"
                        or \"stream\", \"prompt\", \"generate\" or \"stream\", \"budget\", \"slots\",
                        \"seed\", \"segments\", \"tokens\", \"ppl_full\", \"ppl\", \"q_ppl\", \"kld\",
                        \"agree\", \"ci95\", \"texts\", \"needle\", \"greedy\", \"composition\",
                        \"evictions\", \"evicted\", \"peak_slots\", \"bytes\", \"bytes_full\",
                        \"evict_us\": {\"mean\", \"max\"}}
                        tokens: those scored; ppl: the exponential of the mean of -ln p, of this
                        cache, ppl_full: of the full one; q_ppl: the mean over segments of
                        ppl_full / ppl; kld: the divergence from the full one in nats over the whole
                        vocabulary; agree: the part of the tokens that both find most probable;
                        ci95: [low, high] of each, from 2000 resamples of the segments; texts: the
                        same for each text, with \"text\", its name; bytes: of the keys and values of
                        the slots, bytes_full: of the prompt or stream in the full cache; evict_us:
                        of one eviction, null without; needle: null, or \"aware\" (the question is
                        the end of the prompt that is cut down) and \"streamed\" (it comes when the
                        prompt has gone through the smaller cache): {\"asked\", \"full\": those that
                        the full cache answers, \"found\": of those, this one, \"log_p_full\",
                        \"log_p\": the mean over those of ln p of a whole code}; an answer is
                        right if every token of the code is the most probable one; greedy: null, or
                        {\"prompts\", \"tokens\", \"slots\", \"prefix\": tokens before the first that
                        is another, \"rouge_l\", \"f1\": of tokens, both beside the full cache's text,
                        \"evictions\", \"peak_slots\"}; composition: null, or {\"forked\",
                        \"restored\", \"rolled_back\", \"drafted\", \"shared\": whether all bits are
                        the same, \"n_shared\": tokens that were another's, \"n_drafted\",
                        \"n_accepted\", \"pos\", \"slots\", \"snapshot_bytes\", \"save_ms\",
                        \"restore_ms\"}

      --suite           all of that over every text that is there: every policy with one cut; those
                        that matter most with --stream (2048), --needles (60, which no policy was
                        tuned with; 0: none) and --greedy (1024; 0: none); smaller types of keys and
                        values; --composition; and a table of what the figures have to be, for which
                        the first text is prose and the second a manual
      --out FILE        where the suite's page goes, in Markdown, with plots beside it (.svg); with
                        --json the objects of all policies and tests are printed as an array

Fails where figures would mean nothing: nothing was evicted, a stream held more than it may, another
bit; in a suite also if a control does not do what it must: none change nothing, ring not pass. none
with f32 shows what rounding alone costs.

Memory: that of one session for the full cache and one for each policy, with 32 rows of logits each.

And the options of all commands but --ctx, see `tern help`.
";
