"""Refine a report: rewrite it step by step until a judge is satisfied, it has settled, or the money ends.

    python examples/report_refiner.py                                 the sample in examples/reports/ferry.md
    python examples/report_refiner.py mine.md -o better.md            a text of yours; it is left as it is
    python examples/report_refiner.py --price 0.01 --usd 0.05         see what happens when the money comes to its end
    python examples/report_refiner.py --slow 2                        slow enough to be killed in the middle
    python examples/report_refiner.py --resume RUN                    go on with a run, and show its report

Without a key nothing leaves this machine: rules mend one kind of fault a step, and rules judge. With ANTHROPIC_API_KEY
or OPENAI_API_KEY set, that model rewrites and judges; each call is held to the budget before it is sent, and charged by
its client. A rewrite that scores worse is thrown away. When the money comes to its end, one last step polishes what is
there with what was kept for it. A run that was killed goes on with `loomc resume RUN`.

REPORT_REFINER_MODEL names another model; REPORT_REFINER_USD_PER_MTOK="in,out" its price, when it is in no list. Where
sentence-transformers and the model all-MiniLM-L6-v2, or the one that REPORT_REFINER_EMBEDDINGS names, are on this
machine, the meanings of two drafts are compared by it, else their letters.
"""

import argparse
import math
import os
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

# `loomc resume` imports this file by its path, from any folder: its neighbours must be found then too.
sys.path.insert(0, str(Path(__file__).resolve().parent))

from loomc_runner import (
    BestScore,
    Budget,
    BudgetExhausted,
    BudgetNotice,
    Done,
    Judgement,
    RunResult,
    StepRecord,
    Stream,
    current_run,
    judge,
    loop,
    spend,
)
from loomc_runner.store import open_reader
from refining import models, rules
from refining.critic import counted, faults_in, points, reading_ease, review
from refining.draft import Answer, Draft, Report, report_of
from refining.meaning import choose_embeddings, settled
from refining.prose import blocks_of, is_broken, joined, laid_out, paragraphs_of

SAMPLE = Path(__file__).resolve().parent / "reports" / "ferry.md"
MOST_BYTES = 30_000
KEPT = 0.2
"""The share of the dollars that is kept for wrapping up, unless --wrap-up says another."""


def score(draft: Draft) -> float:
    """Score a draft: its reading ease, less a point for each fault."""
    return draft.score


def judged(history: Sequence[StepRecord[Draft]]) -> Answer:
    """Ask the judge about a draft that is the best so far; what is thrown away need not be judged."""
    newest = history[-1]
    if newest.best_n != newest.step_n or not newest.state.is_better:
        return None
    if newest.state.writer != "rules":
        return models.asked_judge(history)
    return judge(by_rules)(history)


def by_rules(draft: Draft) -> Judgement:
    """Judge by rules."""
    return review(draft.text, draft.given)


def tell(notice: BudgetNotice) -> None:
    """Say how much of the dollars is used."""
    if notice.limit == "usd":
        print(f"     ({notice.percent}% of the dollars: ${notice.used:.4f} of ${notice.max_val:.4f})", flush=True)


@loop(
    budget=Budget(usd=0.50, wrap_up=0.10, iterations=20, wall_clock="30m"),
    checkpoint="sqlite",
    converge_on=[judged, settled],
    backtrack=BestScore(),
    scorer=score,
    on_budget=tell,
)
def refine(draft: Draft) -> Draft | Done[Draft, Report]:
    """Rewrite the report once; when the money comes to its end, polish it and end with what is there."""
    if current_run().wrap_up:
        last = wrapped_up(draft)
        return Done(last, result=report_of(last, "the money came to its end, and the last step has wrapped up"))
    if draft.writer != "rules":
        return draft.after(models.rewrite(draft), draft.model)
    spend(usd=draft.charge, label="rules")
    return draft.after(rules.rewrite(draft.text, lambda text: points(text, draft.given)), "rules")


def wrapped_up(draft: Draft) -> Draft:
    """Polish the draft with what is left, if that is enough.

    Raises:
        BudgetExhausted: It is not, and nothing was achieved before either.
    """
    try:
        return draft.after(polished(draft), "last polish")
    except BudgetExhausted:
        if not draft.is_better:
            raise
        return draft.unchanged("last polish: not enough is left for it")


def polished(draft: Draft) -> str:
    """Make a few last corrections."""
    if draft.writer != "rules":
        return models.polish(draft)
    spend(usd=draft.charge, label="last polish")
    return rules.polish(draft.text)


def read_report(path: Path) -> str:
    """Read the file that is to be refined.

    Raises:
        ValueError: It is no file, too large, no text, or has no prose in it.
        OSError: It cannot be read.
    """
    if path.exists() and not path.is_file():
        raise ValueError(f"{path} is no file")
    if (size := path.stat().st_size) > MOST_BYTES:
        raise ValueError(f"{path} has {size:,} bytes: a report may have {MOST_BYTES:,}; refine it in parts")
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError(f"{path} is no UTF-8 text") from None
    if "\0" in text:
        raise ValueError(f"{path} is no text")
    if not paragraphs_of(blocks_of(text)):
        raise ValueError(f"{path} has no sentence in it")
    return text


def dollars(options: argparse.Namespace, name: str, default: float) -> float:
    """Read an amount of the command line.

    Raises:
        ValueError: It is none.
    """
    given = getattr(options, name)
    try:
        amount = default if given is None else float(given)
    except ValueError:
        amount = math.nan
    if not 0 <= amount < math.inf:
        raise ValueError(f"--{name.replace('_', '-')} {given}: give a number, zero or more")
    return amount


def budget_of(options: argparse.Namespace, charge: float) -> Budget:
    """Make the budget that the command line asks for.

    Raises:
        ValueError: Not even one step would fit.
    """
    usd = dollars(options, "usd", 0.50)
    kept = dollars(options, "wrap_up", max(KEPT * usd, charge))
    if charge and charge > min(usd - kept, kept):
        raise ValueError(f"--price {charge:g}: it must fit into --wrap-up {kept:g}, and into the rest of --usd {usd:g}")
    return Budget(usd=usd, wrap_up=kept, step_usd=charge or None, iterations=20, wall_clock="30m")


def first_draft(options: argparse.Namespace) -> Draft:
    """Make the first state from the file and the options.

    Raises:
        ValueError: They cannot be used.
        RuntimeError: A model cannot be asked.
    """
    path = options.file or SAMPLE
    given = read_report(path)
    text = joined(blocks_of(given))
    writer, model, price = ("rules", "", None) if options.offline else models.choose_writer(os.environ)
    if options.price and writer != "rules":
        raise ValueError(f"--price is for the rules, and {model} has a price of its own; or add --offline")
    name = os.environ.get("REPORT_REFINER_EMBEDDINGS") or "all-MiniLM-L6-v2"
    return Draft(
        name=path.name,
        given=text,
        text=text,
        wraps=is_broken(given),
        writer=writer,
        model=model,
        price=price,
        charge=dollars(options, "price", 0.0),
        embeddings="" if options.letters else choose_embeddings(name),
    ).noted()


def begin(options: argparse.Namespace) -> Stream[Draft]:
    """Start or resume the run that the command line asks for.

    Raises:
        ValueError: The options or the file cannot be used.
        RuntimeError: A model cannot be asked.
    """
    live = refine.with_options(progress=sys.stderr.isatty())
    if options.resume:
        more = None if options.usd is None else Budget(usd=dollars(options, "usd", 0.0))
        return live.stream(run_id=options.resume, budget=more)
    draft = first_draft(options)
    stream = live.with_options(budget=budget_of(options, draft.charge)).stream(draft)
    who, by = draft.model or "rules", draft.embeddings or "their letters"
    print(f"{draft.name} is rewritten and judged by {who}; what two drafts say is compared by {by}")
    faults, ease = counted(faults_in(draft.text, draft.given)), reading_ease(draft.text)
    print(f"given {draft.score:7.1f}  its reading ease is {ease:.1f}; {faults}")
    return stream


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Refine a report until it is good, has settled, or the money ends.")
    parser.add_argument("file", nargs="?", type=Path, help="the text, Markdown or plain; default: a sample")
    parser.add_argument("-o", "--out", type=Path, metavar="FILE", help="write the refined text here")
    parser.add_argument("--usd", metavar="DOLLARS", help="what the run may spend (default: 0.50)")
    parser.add_argument("--wrap-up", metavar="DOLLARS", help="what of that is kept for a last step (default: a fifth)")
    parser.add_argument("--price", metavar="DOLLARS", help="what a step of the rules counts as (default: nothing)")
    parser.add_argument("--slow", metavar="SECONDS", help="wait after each step, so that there is time to kill it")
    parser.add_argument("--offline", action="store_true", help="use the rules, even if there is a key for a model")
    parser.add_argument("--letters", action="store_true", help="compare letters, even if a model for meanings is here")
    parser.add_argument("--resume", metavar="RUN", help="go on with this run")
    return parser.parse_args(arguments)


def follow(stream: Stream[Draft], seconds: float) -> RunResult[Draft]:
    """Show each step while the report is refined."""
    for step in stream:
        worse = "  (worse: thrown away)" if (step.decision or "").startswith("restore") else ""
        print(f"{step.step_n:5} {step.score:7.1f}  ${step.cost_usd:.4f}  {step.state.changes[-1]}{worse}", flush=True)
        time.sleep(seconds)
    assert stream.result is not None  # a stream that was read to its end has one
    return stream.result


def show(result: RunResult[Draft], out: Path | None) -> bool:
    """Print the report and how it came about; tell whether there is one."""
    report: Report = result.result or report_of(result.state)
    achieved = result.status == "completed" or report.after > report.before
    if achieved:
        text = laid_out(report.text) if result.state.wraps else report.text
        if out:
            out.write_text(text, encoding="utf-8")
        print("", f"(in {out})" if out else text.strip(), "", sep="\n")
        print("what was changed", *(f"  {change}" for change in report.changes or ["(nothing)"]), sep="\n")
        print("what is left for a person", *(f"  {fault}" for fault in report.left or ["(nothing)"]), sep="\n")
    print(f"score    {report.before:.1f} → {report.after:.1f}{'' if achieved else '  nothing was achieved'}")
    print(f"faults   {report.was} → {report.now}")
    print(f"stopped  {report.ended or result.stop_reason}")
    print(f"spent    ${result.cost_usd:.4f}", *spent_on(result.run_id), sep="\n")
    print(f"look further: loomc explain {result.run_id}", end="")
    print(f"    loomc diff {result.run_id} -1 {result.steps - 1}" if result.steps else "")
    return achieved


def spent_on(run_id: str) -> list[str]:
    """Say what was paid for, by model and purpose."""
    nano, count = Counter[str](), Counter[str]()
    for charge in open_reader().charges(run_id):
        name = charge.label or "?"
        if charge.model:
            name = f"{charge.model}, {'judging' if charge.label == 'judge' else 'writing'}"
        if charge.estimated:
            name += " (cut off: what it may have cost)"
        nano[name] += charge.nano_usd
        count[name] += 1
    return [f"         ${nano[name] / 1e9:.4f} for {count[name]} x {name}" for name in nano if nano[name]]


def work(options: argparse.Namespace) -> int:
    """Do what the command line asks for.

    Raises:
        ValueError: The options or the file cannot be used.
    """
    source, seconds = options.file or SAMPLE, dollars(options, "slow", 0.0)
    if options.out and options.out.resolve() == source.resolve():
        raise ValueError(f"--out {options.out} would overwrite what is refined")
    if options.out and (options.out.is_dir() or not options.out.resolve().parent.is_dir()):
        raise ValueError(f"--out {options.out}: give a file in a folder that is there")
    stream = begin(options)
    print(f"run {stream.run_id} (if it is killed: loomc resume {stream.run_id})", flush=True)
    return 0 if show(follow(stream, seconds), options.out) else 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Return the exit status: 0 = a report, 1 = nothing was achieved, 2 = could not start or go on."""
    try:
        return work(parse(arguments))
    except Exception as error:  # noqa: BLE001 - whatever the SDK of a vendor raises, too
        run_id = getattr(error, "run_id", None)
        go_on = f" (to go on: --resume {run_id})" if run_id else ""
        print(f"report_refiner: {' '.join(str(error).split()) or type(error).__name__}{go_on}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nreport_refiner: stopped; the run can be resumed", file=sys.stderr)
        return 130


if __name__ == "__main__":
    raise SystemExit(main())
