// SPDX-License-Identifier: Apache-2.0
#include "rag/generator.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "rag/citations.h"

namespace unfold {
namespace {

using Clock = std::chrono::steady_clock;

double MillisecondsSince(Clock::time_point begin) {
  return std::chrono::duration<double, std::milli>(Clock::now() - begin).count();
}

// Never generated: gists of every level, link tokens, what the model's config suppresses, and rows that only pad the
// vocabulary.
std::vector<TokenId> BannedTokens(const GeneratorContext& context, bool ignore_end_token) {
  std::vector<TokenId> banned = context.config->suppressed_tokens;
  const auto& gists = context.config->rules.gist_ids;
  banned.insert(banned.end(), gists.begin(), gists.end());
  banned.insert(banned.end(), context.config->link_ids.begin(), context.config->link_ids.end());
  for (TokenId id = context.tokenizer->vocab_size(); id < context.model->config().vocab_size; ++id) {
    banned.push_back(id);
  }
  if (ignore_end_token) {
    for (const auto* ends : {&context.model->config().end_tokens, &context.config->turn_end_tokens}) {
      banned.insert(banned.end(), ends->begin(), ends->end());
    }
  }
  return banned;
}

Status CheckOptions(const AskOptions& options) {
  UNFOLD_TRY(Sampler::Check(options.sampling));
  if (options.compression != 0 && !(options.compression >= 1 && options.compression <= 1e6)) {
    return Status::InvalidArgument("compression must be at least 1");
  }
  if (options.unfold_top_k < 0) return Status::InvalidArgument("unfold_top_k must not be negative");
  if (!(options.unfold_top_p >= 0 && options.unfold_top_p <= 1)) {
    return Status::InvalidArgument("unfold_top_p must lie between 0 and 1");
  }
  if (options.unfold_top_k > 0 && options.unfold_top_p > 0) {
    return Status::InvalidArgument("unfold_top_k and unfold_top_p exclude each other");
  }
  if (options.max_answer_tokens < 0) return Status::InvalidArgument("max_answer_tokens must not be negative");
  if (options.working_set.max_documents < 0) return Status::InvalidArgument("max_documents must not be negative");
  if (options.working_set.max_context_tokens < 0) {
    return Status::InvalidArgument("max_context_tokens must not be negative");
  }
  return Status::Ok();
}

}  // namespace

Result<std::unique_ptr<Prefix>> ComputePrefix(Transformer& model, const GistConfig& config,
                                              const Tokenizer& tokenizer) {
  const FilledPrompt prompt = config.prefix.Fill("", 0, tokenizer);
  auto prefix = std::make_unique<Prefix>();
  prefix->num_tokens = static_cast<std::int64_t>(prompt.ids.size());
  if (prefix->num_tokens > model.config().max_positions) {
    return Status::InvalidArgument("prompt.prefix is longer than the model's window");
  }
  UNFOLD_TRY_ASSIGN(prefix->kv,
                    CausalKv::Make(model, model.config().num_layers, std::max<std::int64_t>(1, prefix->num_tokens)));
  if (prefix->num_tokens == 0) return prefix;
  CausalAttention attention(model, prefix->kv);
  UNFOLD_TRY(attention.Prepare(prefix->num_tokens));
  UNFOLD_TRY(model.Run(prompt.ids, attention, {.num_layers = 0, .keys_only = true}));
  return prefix;
}

Result<PreparedQuestion> PrepareQuestion(const GeneratorContext& context, std::string_view question,
                                         const AskOptions& options) {
  UNFOLD_TRY(CheckOptions(options));
  PreparedQuestion prepared;
  prepared.prompt =
      context.config->question.Fill(question, context.config->max_question_tokens, *context.tokenizer, options.history);
  if (prepared.prompt.question_begin == prepared.prompt.question_end) {
    return Status::InvalidArgument("the question is empty");
  }
  prepared.max_answer_tokens =
      options.max_answer_tokens > 0 ? options.max_answer_tokens : context.config->max_answer_tokens;
  const std::int64_t fixed =
      context.prefix->num_tokens + static_cast<std::int64_t>(prepared.prompt.ids.size()) + prepared.max_answer_tokens;
  const std::int64_t window = context.model->config().max_positions - fixed;
  if (window < 0) {
    return Status::ResourceExhausted("prefix, question and answer need " + std::to_string(fixed) +
                                     " tokens, the model's window is " +
                                     std::to_string(context.model->config().max_positions));
  }
  const std::int64_t wanted = options.working_set.max_context_tokens;
  prepared.context_budget = wanted > 0 ? std::min(wanted, window) : window;
  if (options.mode != AnswerMode::kDense) {
    prepared.links_per_part = static_cast<std::int64_t>(context.config->link_ids.size());
  }
  return prepared;
}

Generator::Generator(const GeneratorContext& context, PreparedQuestion question, const AskOptions& options,
                     CancelCheck check)
    : context_(context),
      question_(std::move(question)),
      options_(options),
      check_(std::move(check)),
      sampler_(options.sampling, BannedTokens(context, options.ignore_end_token)),
      text_(options.stop),
      history_(question_.prompt.ids) {}

Result<std::unique_ptr<Generator>> Generator::Start(const GeneratorContext& context, PreparedQuestion question,
                                                    const AskOptions& options, std::vector<PartRef> parts,
                                                    CancelCheck check) {
  std::unique_ptr<Generator> generator(new Generator(context, std::move(question), options, std::move(check)));
  UNFOLD_TRY(generator->Place(std::move(parts)));
  UNFOLD_TRY(generator->Prefill());
  return generator;
}

Status Generator::Place(std::vector<PartRef> parts) {
  const Clock::time_point begin = Clock::now();
  if (options_.mode == AnswerMode::kClosed || parts.empty()) return Status::Ok();
  const auto first = static_cast<std::int32_t>(context_.prefix->num_tokens);
  if (options_.mode == AnswerMode::kDense) {
    UNFOLD_TRY_ASSIGN(working_set_, WorkingSet::PlaceDense(*context_.model, *context_.cache, std::move(parts), first,
                                                           context_.dense_batch_tokens, check_));
  } else {
    UNFOLD_TRY_ASSIGN(working_set_, WorkingSet::Place(*context_.model, *context_.cache, context_.config->rules,
                                                      std::move(parts), first));
  }
  place_ms_ = MillisecondsSince(begin);
  return Status::Ok();
}

Status Generator::Prefill() {
  const Clock::time_point begin = Clock::now();
  SelectionBudget budget;
  if (working_set_ != nullptr) {
    const double compression = options_.compression > 0 ? options_.compression : context_.config->compression;
    budget.top_k = DefaultTopK(working_set_->num_tokens() + working_set_->num_gists(), compression,
                               context_.model->config().group_size(), context_.config->rules.chunk_size,
                               working_set_->num_chunks());
    if (options_.unfold_top_k > 0) budget.top_k = options_.unfold_top_k;
    budget.top_p = options_.unfold_top_p;
  }
  const auto question_tokens = static_cast<std::int64_t>(question_.prompt.ids.size());
  const std::vector<TokenId> links = LinkTokens();
  const auto num_links = static_cast<std::int64_t>(links.size());
  UNFOLD_TRY_ASSIGN(CausalKv tail, CausalKv::Make(*context_.model, context_.model->config().num_layers,
                                                  num_links + question_tokens + question_.max_answer_tokens));
  attention_ = std::make_unique<QueryAttention>(*context_.model, context_.prefix->kv, context_.prefix->num_tokens,
                                                working_set_.get(), std::move(tail), budget, check_);
  if (!links.empty()) {
    UNFOLD_TRY(attention_->BeginLinks(static_cast<std::int64_t>(context_.config->link_ids.size())));
    UNFOLD_TRY(context_.model->Run(links, *attention_, {.num_layers = 0, .keys_only = true}));
  }
  UNFOLD_TRY(RunQueryPass(*context_.model, *attention_, question_.prompt.ids, logits_));
  prefill_ms_ = MillisecondsSince(begin);
  return Status::Ok();
}

// The model's link tokens, once for each placed document. Texts that are stuffed (dense) have none.
std::vector<TokenId> Generator::LinkTokens() const {
  std::vector<TokenId> links;
  if (working_set_ == nullptr || options_.mode == AnswerMode::kDense) return links;
  const std::vector<TokenId>& ids = context_.config->link_ids;
  for (std::size_t j = 0; j < working_set_->parts().size(); ++j) links.insert(links.end(), ids.begin(), ids.end());
  return links;
}

bool Generator::IsEnd(TokenId token) const {
  const auto has = [token](const std::vector<TokenId>& ends) {
    return std::find(ends.begin(), ends.end(), token) != ends.end();
  };
  return has(context_.model->config().end_tokens) || has(context_.config->turn_end_tokens);
}

Result<bool> Generator::End(FinishReason reason, const TextSink& sink) {
  finish_ = reason;
  UNFOLD_TRY(attention_->UpdateReport());
  (void)Emit(sink, text_.Finish());  // nothing follows, so whether the sink wants more does not matter
  return false;
}

Result<bool> Generator::Take(const TextSink& sink) {
  UNFOLD_TRY(check_());
  UNFOLD_TRY(failure_);
  const TokenId token = sampler_.Next(logits_, history_);
  const bool end = IsEnd(token);
  last_token_time_ = Clock::now();
  if (answer_.empty()) first_token_time_ = last_token_time_;
  // The pass that gave the end token gave no token of the answer; an empty answer still cites what its prompt attended.
  if (!end || answer_.empty()) UNFOLD_TRY(attention_->CommitPass());
  if (end) return End(FinishReason::kEnd, sink);
  answer_.push_back(token);
  history_.push_back(token);
  const bool wants_more = Emit(sink, text_.Push(context_.tokenizer->TokenBytes(token)));
  if (text_.stopped()) return End(FinishReason::kStop, sink);
  if (!wants_more) return End(FinishReason::kSink, {});
  if (static_cast<std::int64_t>(answer_.size()) == question_.max_answer_tokens) return End(FinishReason::kLength, sink);
  return true;
}

void Generator::Advance(std::span<Generator* const> answers) {
  const Status status = RunStep(answers);
  for (Generator* answer : answers) answer->failure_ = status.ok() ? answer->attention_->failure() : status;
}

Status Generator::RunStep(std::span<Generator* const> answers) {
  std::vector<QueryAttention*> attentions;
  std::vector<TokenId> tokens;
  for (const Generator* answer : answers) {
    attentions.push_back(answer->attention_.get());
    tokens.push_back(answer->answer_.back());
  }
  UNFOLD_TRY_ASSIGN(const std::span<const float> logits, answers.front()->context_.steps->Run(attentions, tokens));
  for (std::size_t i = 0; i < answers.size(); ++i) {
    const auto own = logits.subspan(i * logits.size() / answers.size(), logits.size() / answers.size());
    answers[i]->logits_.assign(own.begin(), own.end());
  }
  return Status::Ok();
}

Result<bool> Generator::Step(const TextSink& sink) {
  UNFOLD_TRY_ASSIGN(const bool goes_on, Take(sink));
  if (!goes_on) return false;
  Generator* const own = this;
  Advance(std::span(&own, 1));
  UNFOLD_TRY(failure_);
  return true;
}

Result<Answer> Generator::TakeAnswer() {
  Answer answer;
  answer.text = text_.text();
  answer.tokens = answer_;
  answer.finish = finish_;
  answer.question_truncated = question_.prompt.truncated;
  answer.num_turns_dropped = question_.prompt.num_turns_dropped;
  answer.timings.place_ms = place_ms_;
  answer.timings.prefill_ms = prefill_ms_;
  Usage& usage = answer.usage;
  usage.prompt_tokens = static_cast<std::uint64_t>(context_.prefix->num_tokens) + question_.prompt.ids.size();
  usage.cached_tokens = static_cast<std::uint64_t>(context_.prefix->num_tokens);
  usage.completion_tokens = answer_.size();
  if (working_set_ == nullptr) return answer;

  const AttentionReport& report = attention_->report();
  usage.prompt_tokens += working_set_->num_tokens() + LinkTokens().size();
  if (options_.mode == AnswerMode::kSsa) usage.cached_tokens += working_set_->num_tokens();
  usage.context_chunks = working_set_->num_chunks();
  usage.kv_bytes_read = working_set_->kv_bytes_read();
  usage.pages_hit = working_set_->pages_hit();
  usage.pages_missed = working_set_->pages_missed();
  answer.timings.unfold_ms = working_set_->unfold_ms();
  if (report.num_shares > 0) answer.unfolded_share = report.chosen_share_sum / static_cast<double>(report.num_shares);
  UNFOLD_TRY_ASSIGN(answer.sources, CiteSources(*working_set_, report));
  if (options_.explain) answer.unfolded = ExplainFirstToken(*working_set_, report);
  for (const PlacedPart& part : working_set_->parts()) {
    const std::string& name = part.ref.document;
    if (std::find(answer.placed.begin(), answer.placed.end(), name) == answer.placed.end())
      answer.placed.push_back(name);
  }
  return answer;
}

}  // namespace unfold
