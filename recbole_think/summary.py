"""A finished run as text: stages, the metric table beside its neighbours, and what it recommended to five people."""

from pathlib import Path
from typing import Any

from recbole_think.leaderboard.rows import comparable_rows, table

SHOWN = 5  # people, and items recommended to each: a terminal is small

CAPTIONS = 3  # shown of those kept


def summary(result: dict[str, Any]) -> str:
    """Return the page the command line ends with; its last line is the run folder.

    Args:
        result: what ``run`` returned, with ``popularity`` for the live row (absent when the run is Pop's own).
    """
    metrics = result["metrics"]
    parts = [
        _head(metrics),
        *([_stages(metrics["stages"])] if metrics["stages"] else []),
        *([_language(metrics)] if metrics.get("perplexity") else []),
        *([_alignment(metrics["alignment"])] if metrics.get("alignment") else []),
        _metrics(result),
        *([_reasoning(metrics["reasoning"])] if metrics.get("reasoning") else []),
        *([_samples(metrics["samples"])] if metrics.get("samples") else []),
        f"report: {Path(result['run_folder']) / 'report.html'}",
        f"run folder: {result['run_folder']}",
    ]
    return "\n" + "\n\n".join(parts) + "\n"


def _head(metrics: dict[str, Any]) -> str:
    seconds = sum(metrics["seconds"].values())
    masked = "yes (items already met cannot be recommended)" if metrics["mask_history"] else "no"
    lines = [
        f"{metrics['model']} on {metrics['dataset']}, seed {metrics['seed']}: {seconds:.0f} s, "
        f"peak memory {metrics['peak_memory_mib']:.0f} MiB, {metrics['parameters']:,} parameters",
        f"history masked: {masked}; test targets the user had met before: {metrics['repeated_target_share']:.1%}",
    ]
    if metrics["illegal_rate"] is not None:
        lines.append(f"illegal answers: {metrics['illegal_rate']:.2%}")
    return "\n".join(lines)


def _stages(rows: list[dict[str, Any]]) -> str:
    # alignment is validated by the loss on what is held out (with a minus), recommendation by the ranking metric
    lines = ["stage                 seconds      tokens  tokens/s    loss  best validation"]
    for row in rows:
        speed = row["tokens"] / max(row["seconds"], 1e-9)
        lines.append(
            f"{row['stage']:<18}{row['seconds']:>11.1f}{row['tokens']:>12,}{speed:>10,.0f}{row['loss']:>8.3f}"
            f"{row['best_score']:>17.4f}"
        )
    return "\n".join(lines)


def _language(metrics: dict[str, Any]) -> str:
    said = ", ".join(f"{row['after']} {row['perplexity']:.2f}" for row in metrics["perplexity"])
    return f"perplexity of held-out general text, after each stage: {said}"


def _alignment(figures: dict[str, dict[str, Any]]) -> str:
    lines = ["alignment on held-out items     caption similarity  (random)  category  (random)  found@10  (chance)"]
    for stage, row in figures.items():
        lines.append(
            f"{stage:<32}{row['similarity']:>18.3f}{row['similarity_random_item']:>10.3f}{row['category']:>10.3f}"
            f"{row['category_random_item']:>10.3f}{row['retrieval_hit@10']:>10.3f}{row['retrieval_chance@10']:>10.3f}"
        )
    last = list(figures.values())[-1]
    for caption in last["captions"][:CAPTIONS]:
        lines.append(f"  {caption['title']}\n    described as: {' '.join(caption['caption'].split())}")
    return "\n".join(lines)


def _metrics(result: dict[str, Any]) -> str:
    metrics = result["metrics"]
    rows = [{**metrics, "label": metrics["model"]}]
    if result.get("popularity"):
        rows.append({**result["popularity"], "label": "Pop (just run)"})
    for row in comparable_rows(metrics, metrics["mask_history"]):
        rows.append({**row, "label": f"{row['label']} ({row['finished']})"})
    other = "not masked" if metrics["mask_history"] else "masked"
    twin = {
        "label": f"{metrics['model']}, history {other}",
        "test": metrics["test_other_masking"],
        "standard_error": metrics["standard_error_other_masking"],
    }
    note = (
        f"test, {metrics['users']:,} users, whole catalogue ranked, mean ± standard error over users "
        f"(dated rows are committed results of the same split and masking)"
    )
    return f"{note}\n{table(rows)}\n\nthe same checkpoint under the other masking\n{table([twin])}"


def _reasoning(found: dict[str, Any]) -> str:
    many = found["candidates"]
    lines = [
        f"thinking, on {found['n_users']:,} test users: {many['thoughts']} thoughts x {many['beams_each']} beams; "
        f"the twins have {many['twin_beams']} candidates as well"
    ]
    names = list(found["p_value"])
    lines.append(f"{'':<28}" + "".join(f"{name:>12}" for name in names))
    for row in ("thinking", "twin", "empty", "other_user"):
        label = {"twin": "without thinking", "empty": "after an empty thought", "other_user": "after another user's"}
        lines.append(f"  {label.get(row, row):<26}" + "".join(f"{found[row][name]:>12.4f}" for name in names))
    dll, tokens = found["dll"], found["thought_tokens"]
    valid = found["citation_validity"]
    cited = "" if valid is None else f"; {valid:.0%} of the items cited are in the history"
    lines += [
        f"  log p(true item) changes by {dll['mean']:+.3f} ± {dll['standard_error']:.3f} nats after a thought "
        f"(up for {dll['share_positive']:.0%}; a better choice among thoughts: {dll['headroom']:.3f} at most)",
        f"  {tokens['mean']:.0f} tokens a thought, {found['cost_ratio']:.1f} x the time of the twin{cited}",
    ]
    return "\n".join([*lines, *(f"  {note}" for note in found["notes"])])


def _samples(samples: list[dict[str, Any]]) -> str:
    blocks = []
    for sample in samples[:SHOWN]:
        listed = sample["recommended"][:SHOWN]
        hit = [" <- the true next one" if title == sample["target"] else "" for title in listed]
        lines = [f"    {n}. {title}{mark}" for n, (title, mark) in enumerate(zip(listed, hit, strict=True), 1)]
        thought = f"  thought: {sample['thoughts'][0]}\n" if sample.get("thoughts") else ""
        blocks.append(
            f"user {sample['user']}\n  lately: {'; '.join(sample['history'])}\n{thought}  recommended:\n"
            + "\n".join(lines)
            + f"\n  true next: {sample['target']}"
        )
    return "\n\n".join(blocks)
