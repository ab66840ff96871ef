"""Rows of T0's 39 training datasets in the columns that the hub has them in, with invented content."""

from typing import Any

FRUITS = ("apple", "banana", "cherry", "grape", "lemon", "mango", "orange", "peach")


def t0_row(task: str, n: int) -> dict[str, Any]:
    """Return row number `n` of a dataset, by the name of its task in the recipe."""
    fruit, other, third, fourth, fifth = (FRUITS[(n + k) % len(FRUITS)] for k in range(5))
    text, question = f"The {fruit} tree number {n} grows.", f"What is number {n}?"
    lettered = {"label": list("ABCDE"), "text": [fruit, other, third, fourth, fifth]}
    eight = {"label": list("ABCDEFGH"), "text": [FRUITS[(n + k) % 8] for k in range(8)]}
    spans = {"text": [fruit], "answer_start": [4]}
    rows: dict[str, dict[str, Any]] = {
        "commonsense_qa": {"question": question, "choices": lettered, "answerKey": "B"},
        "cos_e_v1.11": {
            "question": question,
            "choices": lettered["text"],
            "answer": other,
            "abstractive_explanation": f"{other} is {n}",
        },
        "cosmos_qa": {
            "context": text,
            "question": question,
            "answer0": fruit,
            "answer1": other,
            "answer2": third,
            "answer3": "None of the above choices .",
            "label": n % 3,
        },
        "dream": {
            "dialogue": [f"M: {text}", "W: Yes."],
            "question": question,
            "choice": [fruit, other, third],
            "answer": fruit,
        },
        "qasc": {
            "question": question,
            "choices": eight,
            "answerKey": "C",
            "fact1": text,
            "fact2": f"A {other} falls.",
            "combinedfact": f"{fruit} and {other} meet.",
        },
        "quail": {
            "context": text,
            "question": question,
            "answers": [fruit, other, third, "not enough information"],
            "correct_answer_id": n % 3,
        },
        "quarel": {
            "question": f"{question} (A) {fruit} (B) {other}",
            "answer_index": n % 2,
            "world_literals": {"world1": [fruit], "world2": [other]},
        },
        "quartz": {
            "question": question,
            "choices": {"label": ["A", "B"], "text": [fruit, other]},
            "answerKey": "A",
            "para": text,
        },
        "sciq": {
            "question": question,
            "correct_answer": fruit,
            "distractor1": other,
            "distractor2": third,
            "distractor3": fourth,
            "support": text,
        },
        "social_i_qa": {
            "context": text,
            "question": question,
            "answerA": fruit,
            "answerB": other,
            "answerC": third,
            "label": str(n % 3 + 1),
        },
        "wiki_hop_original": {
            "question": f"place_of_birth {fruit} {n}",
            "supports": [text, f"It is a {other}."],
            "candidates": [fruit, other, third],
            "answer": other,
        },
        "wiqa": {
            "question_para_step": [text, f"A {other} falls."],
            "question_stem": f"suppose more {fruit} happens, how will it affect {other}?",
            "answer_label": ("more", "less", "no_effect")[n % 3],
            "answer_label_as_choice": "ABC"[n % 3],
            "choices": {"label": list("ABC"), "text": ["more", "less", "no effect"]},
            "metadata_question_type": ("INPARA_EFFECT", "EXOGENOUS_EFFECT")[n % 2],
        },
        "quoref": {"context": text, "question": question, "title": fruit, "answers": spans},
        "ropes": {"background": text, "situation": f"A {other}.", "question": question, "answers": {"text": [fruit]}},
        "kilt_tasks_hotpotqa": {"input": question, "output": [{"answer": fruit}]},
        "wiki_qa": {"question": question, "answer": text, "document_title": fruit, "label": n % 2},
        "amazon_polarity": {"title": fruit, "content": text, "label": n % 2},
        "app_reviews": {"package_name": f"org.{fruit}", "review": text, "star": n % 5 + 1},
        "imdb": {"text": text, "label": n % 2},
        "rotten_tomatoes": {"text": text, "label": n % 2},
        "yelp_review_full": {"text": text, "label": n % 5},
        "common_gen": {"concepts": [fruit, other], "target": text},
        "wiki_bio": {
            "input_text": {
                "context": fruit,
                "table": {"column_header": ["name", "article_title"], "content": [other, fruit]},
            },
            "target_text": text,
        },
        "cnn_dailymail_3.0.0": {"article": text, "highlights": f"{fruit} grows"},
        "samsum": {"dialogue": f"Al: {text}", "summary": f"{fruit} grows"},
        "ag_news": {"text": text, "label": n % 4},
        "dbpedia_14": {"title": fruit, "content": text, "label": n % 14},
        "trec": {"text": question, "coarse_label": n % 6, "fine_label": (0, 2, 24, 28, 32, 38)[n % 6]},
        "glue_mrpc": {"sentence1": text, "sentence2": f"A {fruit}.", "label": n % 2},
        "glue_qqp": {"question1": question, "question2": f"Which is {fruit}?", "label": n % 2},
        "paws_labeled_final": {"sentence1": text, "sentence2": f"A {fruit}.", "label": n % 2},
    }
    if task.startswith("adversarial_qa"):
        return {"title": fruit, "context": text, "question": question, "answers": spans, "metadata": {"split": "train"}}
    if task.startswith("duorc"):
        return {"title": fruit, "plot": text, "question": question, "answers": [fruit], "no_answer": False}
    if task in ("gigaword", "multi_news", "xsum"):
        return {"document": text, "summary": f"{fruit} grows"}
    return rows[task]
