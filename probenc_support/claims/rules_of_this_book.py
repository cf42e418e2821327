"""This book's own claims, with their rules: better edits, and an application."""

from probenc_support.claims.judging import Claim, Criterion, Kind, stated_before
from probenc_support.claims.rules_of_paper import LEARNT_TO_STEER, RANDOM_UNIT, STEERING

_steering = stated_before(STEERING)


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
        _steering(
            "hidden_bias_exact",
            "whether the weights give a direction v with v · h = 1: a LayerNorm with gain γ and "
            "bias β before the head, and Σ β/γ not zero",
            at_least=1,
        ),
    ),
    criteria=(
        _steering(
            "hidden_bias_sd_id",
            "standard deviation of v · h over other documents",
            at_most=1e-5,
        ),
        _steering(
            "hidden_bias_sd_ood",
            "the same over another domain",
            at_most=1e-5,
        ),
        _steering(
            "hidden_bias_from_ceiling_id",
            "mean error of the log scale at twentyfold, its distance from that of a plain logit "
            "bias, other documents",
            at_most=1e-6,
        ),
        _steering(
            "hidden_bias_from_ceiling_ood",
            "the same, another domain",
            at_most=1e-6,
        ),
    ),
    controls=(
        _steering(
            "hidden_bias_permuted_sd_id",
            "standard deviation of v · h for the same v with its entries in another order, scaled "
            "to a mean of one",
            at_least=0.1,
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
        _steering(
            f"frontier_beyond_ceiling_row_{domain}",
            "mean error of the log scale at twentyfold beyond that of a plain logit bias, for the "
            f"most even edit as long as a centred row is on average, {words}",
            at_most=0.1,
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
        _steering(
            "joint_edited_rel_error",
            "ten rows of the real model replaced at once: largest relative error of a factor, by "
            "its own forward pass on the text on which the steps were solved",
            at_most=1e-3,
        ),
        _steering(
            "joint_worst_together_id",
            "ten frequent words at mixed scales, error of the log scale of the one that is "
            "farthest off, other documents: solved together against each for itself",
            at_most=0.5,
            times="joint_worst_separate_id",
        ),
        _steering(
            "joint_worst_together_id",
            "the same against plain biases on the logits, solved together, too",
            at_most=3,
            times="joint_worst_logit_bias_id",
        ),
    ),
    controls=(
        _steering(
            "joint_worst_random_unit_id",
            "the same along a random direction, solved together on the same text",
            at_least=2,
            times="joint_worst_together_id",
        ),
    ),
    figure=(STEERING, "fig-joint"),
)


_UNDERTRAINED = "10_undertrained_tokens"

_undertrained = stated_before(_UNDERTRAINED)

B5 = Claim(
    id="B5",
    title="tokens that training never saw?",
    kind=Kind.OURS,
    words="Distance along the direction that encodes probability tells the tokens that training "
    "never saw, with nothing known of them beforehand.",
    needs=(
        _undertrained(
            "n_unseen",
            "tokens that the training text never has, of a model whose text is known",
            at_least=50,
        ),
    ),
    criteria=(
        _undertrained(
            "auroc_along_A",
            "area under the ROC curve of the fitted −log a, unseen tokens against seen ones",
            at_least=0.9,
        ),
        _undertrained(
            "auroc_along_A_less_rival",
            "that, less the area of the best rival that knows no direction of probability: a short "
            "row, a row near the mean, or the cosine with rows that are known not to be in use",
            at_least=-0.02,
        ),
    ),
    controls=(
        _undertrained(
            "auroc_along_A_untrained",
            "the same area of the network before training",
            at_most=0.6,
        ),
        _undertrained(
            "auroc_random_direction_mean",
            "mean area of random directions of the trained embedding, each turned the better way",
            at_most=0.75,
        ),
    ),
    figure=(_UNDERTRAINED, "fig-counts"),
    remark="Can be judged only where the training text is known. Unseen tokens of a small model "
    "are mostly ones that a tokenizer holds without ever making them, such as single bytes.",
)
