"""`inlay lm`: train language models with tables, let them write, edit what they know, and look inside."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

__all__ = ["command"]

MODEL = click.Path(file_okay=False, path_type=Path)

as_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")


@click.group("lm")
def command() -> None:
    """Train, use, edit and inspect language models with tables (STEM, Engram, SCONE, MemoryFormer, frozen glyphs).

    \b
      inlay lm train plan.toml --output model
      inlay lm generate model "The capital of"
      inlay lm edit model --from Spain --to Germany "The capital of Spain is"
      inlay lm inspect model --plot pictures
    """  # noqa: D301 - click reads the backspace


@command.command("train")
@click.argument("plan", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--output", type=MODEL, metavar="DIR", help="Where the model goes [default: trained/PLAN].")
@click.option("--max-minutes", type=click.FloatRange(min=0, min_open=True), metavar="N", help="Stop after so long.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of everything random.")
@click.option("--fresh", is_flag=True, help="Start anew, whatever is there.")
@as_json
def train(plan: Path, output: Path | None, max_minutes: float | None, seed: int, fresh: bool, as_json: bool) -> None:
    """Train the model of PLAN, a TOML file. Interrupted, the same command goes on where it stopped.

    PLAN names its text and the parts of the model; `docs/language-models.md` shows one.
    """
    import torch

    from inlay.errors import BadInput
    from inlay.lm.plan import Plan, save
    from inlay.lm.text import encode

    of = Plan.read(plan)
    folder = output or Path("trained") / plan.stem
    if (folder / "model").exists() and not fresh:
        raise BadInput(f"{folder} holds a trained model already: train it again with --fresh, or give another --output")
    shown = sys.stderr.isatty()
    train_texts, valid_texts = of.split()
    tokenizer = of.tokenizer(train_texts)
    ids, held_out = encode(train_texts, tokenizer), encode(valid_texts, tokenizer)
    torch.manual_seed(seed)
    model = of.decoder(tokenizer, ids)
    one = of.trainer(
        model, ids, held_out, tokenizer, seed=seed, folder=folder / "training", max_minutes=max_minutes, progress=shown
    )
    log = one.run(resume=not fresh)
    save(folder, model, tokenizer, of, log)
    found = {
        "model": str(folder), "parameters": model.num_parameters, "training_tokens": len(ids), **log[-1],
        "stopped": "finished" if one.step == one.steps else "time",
    }  # fmt: skip
    if as_json:
        click.echo(json.dumps(found))
        return
    ended = "finished" if found["stopped"] == "finished" else "stopped when its time was up"
    click.echo(f"{plan.stem}: {ended} after {one.step} steps, {log[-1]['tokens']:,} tokens, {one.seconds / 60:.1f} min")
    click.echo(
        f"  loss {log[-1]['loss']:.3f}, on held-out text {log[-1].get('validation', float('nan')):.3f} nats a token"
    )
    click.echo(f"  {model.num_parameters:,} parameters, model in {folder}")


@command.command("generate")
@click.argument("model", type=MODEL)
@click.argument("prompt", default="")
@click.option("--most", type=click.IntRange(min=1), default=64, show_default=True, help="Tokens to write at most.")
@click.option("--temperature", type=click.FloatRange(min=0), default=0.8, show_default=True, help="0: the likeliest.")
@click.option("--top-k", type=click.IntRange(min=1), default=40, show_default=True, help="Choose among so many.")
@click.option("--seed", type=click.IntRange(min=0), help="Of the choice.")
@as_json
def generate(
    model: Path, prompt: str, most: int, temperature: float, top_k: int, seed: int | None, as_json: bool
) -> None:
    """Go on from PROMPT with the language model in MODEL."""
    import torch

    from inlay.lm.plan import load
    from inlay.lm.text import encode

    made, tokenizer, _ = load(model)
    ids = torch.from_numpy(encode([prompt], tokenizer))
    found: list[int] = []
    written = prompt
    if not as_json:
        click.echo(prompt, nl=False)
    for token in made.stream(ids, temperature=temperature, top_k=top_k, seed=seed):
        if token == ids[0] or len(found) == most:
            break
        found.append(token)
        whole = prompt + tokenizer.decode(found)
        if not as_json and not whole.endswith("\ufffd"):  # half a character: wait for its other bytes
            click.echo(whole[len(written) :], nl=False)
            written = whole
    if as_json:
        click.echo(json.dumps({"prompt": prompt, "text": tokenizer.decode(found), "tokens": len(found)}))
    else:
        click.echo()


@command.command("edit")
@click.argument("model", type=MODEL)
@click.argument("prompt")
@click.option("--from", "source", required=True, metavar="TEXT", help="What stands in PROMPT.")
@click.option("--to", "target", required=True, metavar="TEXT", help="Whose rows are read in its place.")
@click.option(
    "--how", type=click.Choice(["average", "pad", "copy", "subset"]), default="average", show_default=True,
    help="How rows are laid over tokens where their numbers differ.",
)  # fmt: skip
@click.option("--most", type=click.IntRange(min=0), default=24, show_default=True, help="Tokens to write at most.")
@click.option("--top", type=click.IntRange(min=1), default=4, show_default=True, help="Next tokens to show.")
@as_json
def edit(
    model: Path, prompt: str, source: str, target: str, how: str, most: int, top: int, as_json: bool
) -> None:  # fmt: skip
    """Read PROMPT as it stands, but with the memory rows of another name: what would the model say then?

    Nothing is trained and nothing is kept; only models with [stem] have rows to exchange.
    """
    import torch

    from inlay.lm.edit_figures import divergence
    from inlay.lm.editing import edit_text
    from inlay.lm.inspection import likely
    from inlay.lm.plan import load

    made, tokenizer, _ = load(model)

    def said(ids: torch.Tensor) -> dict[str, object]:
        text = tokenizer.decode(made.generate(ids, most, stop=0, temperature=0.0).tolist()) if most else ""
        return {"prompt": tokenizer.decode(ids[1:].tolist()), "next": likely(made, tokenizer, ids, top), "text": text}

    def next_of(ids: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return made(ids[None]).logits[0, -1].double().log_softmax(-1)

    with edit_text(made, tokenizer, prompt, source, target, how=how, before=[0]) as texts:  # type: ignore[arg-type]
        edited, after = said(texts.ids), next_of(texts.ids)
    other = next_of(texts.target_ids)
    found: dict[str, Any] = {
        "plain": said(texts.ids), "edited": edited, "other prompt": said(texts.target_ids),
        "kl_plain": float(divergence(next_of(texts.ids), other)), "kl_edited": float(divergence(after, other)),
    }  # fmt: skip
    if as_json:
        click.echo(json.dumps(found, ensure_ascii=False))
        return
    for name in ("plain", "edited", "other prompt"):
        one = found[name]
        shown = "  ".join(f"{token!r} {share:.2f}" for token, share in one["next"])
        click.echo(f"{name:<13} {one['prompt']}{one['text']}")
        click.echo(f"{'':<13} {click.style(shown, dim=True)}")
    click.echo(f"KL to the other prompt: {found['kl_plain']:.3f} plain, {found['kl_edited']:.3f} edited")


@command.command("inspect")
@click.argument("model", type=MODEL)
@click.argument("text", required=False)
@click.option("--plot", type=MODEL, metavar="DIR", help="Write pictures there: spread of rows, gates of TEXT.")
@as_json
def inspect(model: Path, text: str | None, plot: Path | None, as_json: bool) -> None:
    """Show the parts of a model, its tables and how their rows lie; with TEXT, where its memory answers."""
    from inlay.lm.inspection import inspected, pictures
    from inlay.lm.plan import load

    made, tokenizer, plan = load(model)
    found: dict[str, Any] = inspected(made, tokenizer, text)
    if plot is not None:
        found["pictures"] = [str(path) for path in pictures(made, tokenizer, text, plot)]
    if as_json:
        click.echo(json.dumps(found, ensure_ascii=False))
        return
    click.echo(
        f"{found['parameters']:,} parameters, {found['active']:,} of them outside tables; {', '.join(plan.parts)}"
    )
    flops = found["flops_per_token"]
    click.echo("FLOPs a token: " + ", ".join(f"{name} {value:,}" for name, value in flops.items()))
    for one in found["tables"]:
        line = (
            f"layer {one['layer']:<2} {one['table']:<14} {one['rows']:,} × {one['dim']}, {one['nbytes'] / 1e6:.1f} MB"
        )
        if "p95" in one:
            line += f"; P95 of |cos| {one['p95']:.3f} (isotropic {one['isotropic']:.3f})"
        click.echo(line)
    for layer, gates in found.get("gates", {}).items():
        marked = " ".join(f"{token}·{gate:.2f}" for token, gate in zip(found["tokens"], gates, strict=True))
        click.echo(f"gates of layer {layer}: {marked}")
    for path in found.get("pictures", []):
        click.echo(path)
