"""The paper's open questions, those of its readers and this book's own claims, with their rules."""

from probenc_support.claims.judging import Claim, Criterion, Kind, Stated
from probenc_support.claims.rules_of_paper import (
    LEARNT_TO_STEER,
    PRUNING,
    RANDOM_UNIT,
    STEERING,
    spread,
)

Q2 = Claim(
    id="Q2",
    title="better pruning?",
    kind=Kind.OPEN,
    section="limitations",
    words="Can the encoding give better pruning?",
    paper="Open.",
    needs=(spread(PRUNING),),
    criteria=(
        Criterion(
            PRUNING,
            "kl_slope_over_without_30",
            "KL divergence of the best order that uses the slopes over the best that does not, "
            "paired by document",
            at_most=0.95,
            stated=Stated.BEFORE,
        ),
        Criterion(
            PRUNING,
            "kl_A_kept_over_without_30",
            "KL divergence of the rotated basis with the direction A kept over the same rank "
            "without, paired by document",
            at_most=0.95,
            stated=Stated.BEFORE,
        ),
    ),
    controls=(
        Criterion(
            PRUNING,
            "kl_random_kept_over_without_30",
            "the same with a random direction kept in place of A",
            at_least=1.0,
            stated=Stated.BEFORE,
        ),
    ),
    figure=(PRUNING, "fig-curves"),
    remark="Judged on language modelling; other tasks are not tested here.",
    changed="It asked whether the rotated basis is better than the paper's order, but that basis "
    "never uses the slopes. Now it asks whether the encoding adds anything to a method without it.",
)


Q3 = Claim(
    id="Q3",
    title="does early frequency help convergence?",
    kind=Kind.OPEN,
    section="limitations",
    words="Does the early encoding of frequency influence how the rest converges?",
    paper="Open.",
    remark="Needs an intervention: training runs that differ only in whether the output "
    "embedding knows the frequencies from the start.",
)


N2 = Claim(
    id="N2",
    title="pruned models under training?",
    kind=Kind.READERS,
    words="Does a pruned model stay stable under further training?",
    remark="Needs training runs that start from a pruned head.",
)


_TEXTS_AND_ORDER = "08_texts_and_order"


_CHANGED = {
    "rare_first": "the same blocks, those of rare tokens first",
    "common_first": "the same blocks, those of common tokens first",
    "shuffled": "all tokens dealt out anew, so that no context tells anything",
    "aliases_05": "tokens split into aliases, counts about the square roots of what they were",
}
"""Changes of text and order that leave frequencies apart, by what they are in names of metrics."""


N3 = Claim(
    id="N3",
    title="which texts, which curriculum?",
    kind=Kind.READERS,
    words="The early encoding of frequency is a property of training, and not of this training's "
    "text and order.",
    needs=(
        Criterion(
            _TEXTS_AND_ORDER,
            "n_seeds",
            "seeds of each arm, over which the intervals are",
            at_least=3,
            stated=Stated.BEFORE,
        ),
    ),
    criteria=(
        *(
            Criterion(
                _TEXTS_AND_ORDER,
                f"r2_{arm}_over_control",
                f"{words}: R² of frequency at the end over that of the unchanged "
                "text from the same seed",
                at_least=0.5,
                stated=Stated.BEFORE,
            )
            for arm, words in _CHANGED.items()
        ),
        *(
            Criterion(
                _TEXTS_AND_ORDER,
                f"halfway_{arm}_over_control",
                f"{words}: half-way step, as a share of what the counts so far allow, over that of "
                "the unchanged text",
                at_most=2,
                stated=Stated.BEFORE,
            )
            for arm, words in _CHANGED.items()
        ),
        Criterion(
            _TEXTS_AND_ORDER,
            "r2_second_beyond_first_gain",
            "after another text for the second half of the steps: R² of what its "
            "counts say beyond those of the first text, less that from the E of a run that never "
            "read it",
            at_least=0.1,
            stated=Stated.BEFORE,
        ),
    ),
    controls=(
        Criterion(
            _TEXTS_AND_ORDER,
            "r2_step0_largest",
            "largest R² of any run before its first step",
            at_most=0.05,
            stated=Stated.BEFORE,
        ),
        Criterion(
            _TEXTS_AND_ORDER,
            "r2_parent_over_whole",
            "a count that no id has: that of whole tokens, from E where they are split into "
            "aliases of about equal counts, over the same from E where they are whole",
            at_most=0.5,
            stated=Stated.BEFORE,
        ),
    ),
    figure=(_TEXTS_AND_ORDER, "fig-arms"),
    remark="If the encoding is training's own answer to frequencies, it appears in every order and "
    "without contexts, follows the text that is read, and holds nothing of a count that no id has. "
    "That last one could go the other way: the aliases of a frequent token stand in its many "
    "contexts, and E could show how many they are.",
)


B1 = Claim(
    id="B1",
    title="a more precise edit?",
    kind=Kind.OURS,
    words="Is there an edit that scales a probability more precisely than the paper's?",
    needs=LEARNT_TO_STEER,
    criteria=(
        Criterion(
            STEERING,
            "steer_mae_min_variance_20x_id",
            "the edit of least variance, twentyfold: mean error of the log scale, other documents",
            at_most=0.25,
            times="steer_mae_paper_best_20x_id",
        ),
        Criterion(
            STEERING,
            "steer_mae_robust_20x_ood",
            "the edit fitted on several corpora, twentyfold, another domain",
            at_most=0.25,
        ),
        Criterion(
            STEERING,
            "steer_mae_min_variance_20x_id",
            "the edit of least variance against a plain logit bias, which no edit of a row can be "
            "expected to beat",
            at_most=3,
            times="steer_mae_logit_bias_20x_id",
        ),
    ),
    controls=(RANDOM_UNIT,),
    figure=(STEERING, "fig-expected-actual"),
    changed="It was judged on the detecting text against one reading of the paper's edit. Now it "
    "is judged on other text, against the best of a family and a plain logit bias.",
)


B2 = Claim(
    id="B2",
    title="an exact edit?",
    kind=Kind.OURS,
    words="Where the head reads a LayerNorm with a bias, an edit of one row that its weights alone "
    "give is a plain bias on the logit, at every position of every text.",
    needs=(
        Criterion(
            STEERING,
            "hidden_bias_exact",
            "whether the weights give a direction v with v · h = 1: a LayerNorm with gain γ and "
            "bias β before the head, and Σ β/γ not zero",
            at_least=1,
            stated=Stated.BEFORE,
        ),
    ),
    criteria=(
        Criterion(
            STEERING,
            "hidden_bias_sd_id",
            "standard deviation of v · h over other documents",
            at_most=1e-5,
            stated=Stated.BEFORE,
        ),
        Criterion(
            STEERING,
            "hidden_bias_sd_ood",
            "the same over another domain",
            at_most=1e-5,
            stated=Stated.BEFORE,
        ),
        Criterion(
            STEERING,
            "hidden_bias_from_ceiling_id",
            "mean error of the log scale at twentyfold, its distance from that of a plain logit "
            "bias, other documents",
            at_most=1e-6,
            stated=Stated.BEFORE,
        ),
        Criterion(
            STEERING,
            "hidden_bias_from_ceiling_ood",
            "the same, another domain",
            at_most=1e-6,
            stated=Stated.BEFORE,
        ),
    ),
    controls=(
        Criterion(
            STEERING,
            "hidden_bias_permuted_sd_id",
            "standard deviation of v · h for the same v with its entries in another order, scaled "
            "to a mean of one",
            at_least=0.1,
            stated=Stated.BEFORE,
        ),
    ),
    figure=(STEERING, "fig-frontier"),
    remark="It is a theorem and says nothing of what was learnt: a network with random weights and "
    "a bias in that norm passes, too. What the runs test is that the right norm was found and that "
    "arithmetic leaves it exact. A model without such a norm is not tested; its numbers are those "
    "of the edit of least variance. That the edit is exact does not make it short: see B3.",
)


B3 = Claim(
    id="B3",
    title="a short edit?",
    kind=Kind.OURS,
    words="An edit that is no longer than a row of the output embedding scales a probability "
    "almost as well as a plain logit bias.",
    needs=LEARNT_TO_STEER,
    criteria=tuple(
        Criterion(
            STEERING,
            f"frontier_beyond_ceiling_row_{domain}",
            "mean error of the log scale at twentyfold beyond that of a plain logit bias, for the "
            f"most even edit as long as a centred row is on average, {words}",
            at_most=0.1,
            stated=Stated.BEFORE,
        )
        for domain, words in {"id": "other documents", "ood": "another domain"}.items()
    ),
    controls=(RANDOM_UNIT,),
    figure=(STEERING, "fig-frontier"),
)


B4 = Claim(
    id="B4",
    title="several tokens at once?",
    kind=Kind.OURS,
    words="Steps that are solved together give several tokens their wanted probabilities at once, "
    "where steps solved one token at a time do not.",
    needs=LEARNT_TO_STEER,
    criteria=(
        Criterion(
            STEERING,
            "joint_edited_rel_error",
            "ten rows of the real model replaced at once: largest relative error of a factor, by "
            "its own forward pass on the text on which the steps were solved",
            at_most=1e-3,
            stated=Stated.BEFORE,
        ),
        Criterion(
            STEERING,
            "joint_worst_together_id",
            "ten frequent words at mixed scales, error of the log scale of the one that is "
            "farthest off, other documents: solved together against each for itself",
            at_most=0.5,
            times="joint_worst_separate_id",
            stated=Stated.BEFORE,
        ),
        Criterion(
            STEERING,
            "joint_worst_together_id",
            "the same against plain biases on the logits, solved together, too",
            at_most=3,
            times="joint_worst_logit_bias_id",
            stated=Stated.BEFORE,
        ),
    ),
    controls=(
        Criterion(
            STEERING,
            "joint_worst_random_unit_id",
            "the same along a random direction, solved together on the same text",
            at_least=2,
            times="joint_worst_together_id",
            stated=Stated.BEFORE,
        ),
    ),
    figure=(STEERING, "fig-joint"),
)
