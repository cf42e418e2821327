"""The paper's open questions and those of its readers, with their rules."""

from probenc_support.claims.judging import Claim, Kind, stated_before
from probenc_support.claims.rules_of_paper import PRUNING, spread

_EARLY = "07_early_frequency"
_TEXTS_AND_ORDER = "08_texts_and_order"
_BETTER_PRUNING = "09_better_pruning"
_PRUNED_IN_TRAINING = "11_pruned_in_training"
_WHAT_DRIVES_SPARSITY = "12_what_drives_sparsity"

_on_text = stated_before(PRUNING)
_early = stated_before(_EARLY)
_of_texts = stated_before(_TEXTS_AND_ORDER)
_on_tasks = stated_before(_BETTER_PRUNING)
_pruned_in_training = stated_before(_PRUNED_IN_TRAINING)
_of_drivers = stated_before(_WHAT_DRIVES_SPARSITY)


_APART = {
    "adamw_over_averaged": "AdamW over the same with mean squares shared along the d dimensions",
    "trained_over_fixed_norms": "gains of norms that are trained over gains that stay one",
}
"""What tells the axes apart, and what is the same without, by what they are in names of metrics."""


Q1B = Claim(
    id="Q1b",
    title="what drives sparsity, by experiment?",
    kind=Kind.OPEN,
    section="limitations",
    words="Raw dimensions become sparse by an optimiser that treats each entry by itself and by "
    "trained gains of norms; that the first components hold most is due to neither.",
    paper="Open.",
    needs=(_of_drivers("n_seeds", "seeds of every combination", at_least=3),),
    criteria=(
        *(
            _of_drivers(
                f"gini_{name}",
                f"Gini coefficient of the slopes, over that after rotations: {words}",
                at_least=1.05,
            )
            for name, words in _APART.items()
        ),
        *(
            _of_drivers(
                f"mean_h_{name}",
                f"participation ratio of mean h, over that after rotations: {words}",
                at_most=0.8,
            )
            for name, words in _APART.items()
        ),
        *(
            _of_drivers(
                f"components_{name}",
                "share of R² of the first three components, over that along a random direction: "
                f"{words}",
                **bound,
            )
            for name, words in _APART.items()
            for bound in ({"at_least": 0.9}, {"at_most": 1.1})
        ),
    ),
    controls=(
        _of_drivers(
            "gini_equivariant",
            "Gini coefficient over that after rotations where nothing knows the axes (RMSNorm with "
            "fixed gains, and mean squares shared or SGD)",
            at_most=1.1,
        ),
        _of_drivers(
            "mean_h_equivariant",
            "participation ratio of mean h over that after rotations, in the same networks",
            at_least=0.8,
        ),
    ),
    figure=(_WHAT_DRIVES_SPARSITY, "fig-cells"),
    remark="Of networks with 2 layers of width 128, as small as a processor trains in a minute. "
    "Before the rule was set, single runs of another seed had been looked at to find a setting of "
    "raw sparsity, at other learning rates and lengths, among them one with averaged mean squares, "
    "one with fixed gains and a few of SGD. What is judged are other seeds in all combinations.",
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
        _on_text(
            "kl_slope_over_without_30",
            "KL divergence of the best order that uses the slopes over the best that does not, "
            "paired by document",
            at_most=0.95,
        ),
        _on_text(
            "kl_A_kept_over_without_30",
            "KL divergence of the rotated basis with the direction A kept over the same rank "
            "without, paired by document",
            at_most=0.95,
        ),
    ),
    controls=(
        _on_text(
            "kl_random_kept_over_without_30",
            "the same with a random direction kept in place of A",
            at_least=1.0,
        ),
    ),
    figure=(PRUNING, "fig-curves"),
    remark="Judged on language modelling; Q2b asks the same of other tasks.",
    changed="It asked whether the rotated basis is better than the paper's order, but that basis "
    "never uses the slopes. Now it asks whether the encoding adds anything to a method without it.",
)


_TASKS = {
    "continuation": "telling the true continuation from three others",
    "agreement": "agreement of verb and subject",
    "next_class": "the class of the next token",
}


Q2B = Claim(
    id="Q2b",
    title="better pruning, on tasks?",
    kind=Kind.OPEN,
    section="limitations",
    words="Does a pruned head that keeps the direction A answer more items of a task rightly than "
    "one of the same rank that need not keep it?",
    paper="Open.",
    needs=(
        *(
            _on_tasks(
                f"accuracy_above_chance_{task}",
                f"{words}: share of items that the intact head has right, above chance",
                at_least=0.1,
            )
            for task, words in _TASKS.items()
        ),
        _on_tasks(
            "accuracy_lost_random_30",
            "share of items, mean of the tasks, that is lost where random dimensions are set to "
            "zero: a task that sees no pruning can judge none",
            at_least=0.02,
        ),
    ),
    criteria=(
        *(
            _on_tasks(
                f"accuracy_gain_A_kept_{task}_30",
                f"{words}: share of items that the rotated basis has right with A kept, less that "
                "of the same rank without, paired by item",
                at_least=0.005,
                beside=f"accuracy_lost_rotated_{task}_30",
                beside_says="what the same rank without loses to the intact head",
            )
            for task, words in _TASKS.items()
        ),
        *(
            _on_tasks(
                f"answer_gain_A_kept_{task}_30",
                f"{words}: log-probability of the right answer among the answers, in nats, with A "
                "kept less without, paired by item",
                at_least=0.005,
            )
            for task, words in _TASKS.items()
        ),
    ),
    controls=(
        _on_tasks(
            "accuracy_gain_random_kept_30",
            "share of items gained, mean of the tasks, with random directions kept in place of A",
            at_most=0.005,
        ),
        _on_tasks(
            "answer_gain_random_kept_30",
            "log-probability of the right answer gained, mean of the tasks, with random directions "
            "kept in place of A",
            at_most=0.005,
        ),
    ),
    figure=(_BETTER_PRUNING, "fig-tasks"),
    remark="A gain of half a percentage point is what a few hundred items can hardly resolve, so "
    "the log-probability of the answer is judged besides: it moves where no answer flips.",
)


Q3 = Claim(
    id="Q3",
    title="does early frequency help convergence?",
    kind=Kind.OPEN,
    section="limitations",
    words="A network whose output embedding is kept from encoding frequency converges later in "
    "everything else, too, and does not where it is given the frequencies otherwise.",
    paper="Open.",
    needs=(
        _early("n_seeds", "seeds of every arm", at_least=3),
        _early(
            "r2_blocked_most",
            "adjusted R² of −log f on E, or on its mean logits, at the worst checkpoint of a "
            "blocked arm",
            at_most=0.05,
        ),
        _early("r2_control_final", "adjusted R² of −log f on E of the control", at_least=0.5),
    ),
    criteria=(
        _early(
            "steps_gain_blocked_over_control",
            "steps to predict one nat better than the frequencies alone: blocked over control",
            at_least=1.1,
        ),
        _early(
            "steps_given_blocked_over_control",
            "steps to the same, when the frequencies are given to each checkpoint of both: what "
            "is made of the context alone",
            at_least=1.1,
        ),
        _early(
            "steps_given_blocked_over_rescued",
            "the same: blocked over the arm that is blocked, too, and has the frequencies in its "
            "head bias from the start",
            at_least=1.1,
        ),
        _early(
            "halfway_states_blocked_over_control",
            "half-way step of the hidden states of all layers (CKA with the arm's own end): "
            "blocked over control",
            at_least=1.1,
        ),
    ),
    controls=(
        _early(
            "steps_given_placebo_over_bias",
            "steps to one nat when the frequencies are given: a head bias with the frequencies of "
            "other tokens over the right one",
            at_least=1.0,
        ),
    ),
    figure=(_EARLY, "fig-gain"),
    remark="Of a network of 2 layers that reads 0.8 million tokens. A delay that is all due to the "
    "missing frequencies themselves would show in the first criterion alone.",
    changed="It asked a question without a test; now networks are trained that differ only in "
    "whether frequency can be encoded early.",
)


_KEPT_WELL = {
    "paper": "dimensions of small slopes set to zero",
    "rotated": "a rotated basis cut off",
}


N2 = Claim(
    id="N2",
    title="pruned models under training?",
    kind=Kind.READERS,
    words="A pruned model that is trained further on another text, its mask held, falls no farther "
    "behind the intact model that reads the same, and forgets no more.",
    needs=(
        _pruned_in_training("n_seeds", "seeds of every arm", at_least=3),
        _pruned_in_training("n_domains", "new texts", at_least=3),
    ),
    criteria=(
        *(
            _pruned_in_training(
                f"excess_growth_{method}_held",
                f"{words}: loss on the new text beyond the intact twin's, after training less "
                "before, in nats",
                at_most=0.02,
            )
            for method, words in _KEPT_WELL.items()
        ),
        *(
            _pruned_in_training(
                f"forgot_{method}_held_less_intact",
                f"{words}: what the loss on the first text rose, less what the intact twin's rose, "
                "in nats",
                at_most=0.02,
            )
            for method, words in _KEPT_WELL.items()
        ),
        _pruned_in_training(
            "excess_growth_rotated_held_most",
            "a rotated basis cut off: the same growth of the loss on the new text, of the new text "
            "of three where it is largest",
            at_most=0.02,
        ),
        _pruned_in_training(
            "forgot_rotated_held_less_intact_most",
            "a rotated basis cut off: what is forgotten beyond the intact twin, of the new text of "
            "three where it is largest",
            at_most=0.02,
        ),
        *(
            _pruned_in_training(
                f"kl_{method}_held_after_over_before",
                f"{words}: divergence of the intact twin's predictions on the new text, after "
                "training over before",
                at_most=1.0,
            )
            for method, words in _KEPT_WELL.items()
        ),
    ),
    controls=(
        _pruned_in_training(
            "excess_random_held_after",
            "dimensions by lot set to zero: loss on the new text beyond the intact twin's, after "
            "training, in nats; were it nothing, training would heal whatever was pruned",
            at_least=0.02,
        ),
    ),
    figure=(_PRUNED_IN_TRAINING, "fig-after"),
    remark="Of one small network, 200 steps long; a larger one may differ. The figure and all "
    "criteria but two are of the first new text.",
    changed="It asked a question without a test; now pruned models are trained further beside "
    "their intact twins. Two more new texts came later, with criteria of their own for the basis "
    "that had kept beside its twin on the first, which were set before they were read.",
)


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
        _of_texts(
            "n_seeds",
            "seeds of each arm, over which the intervals are",
            at_least=3,
        ),
    ),
    criteria=(
        *(
            _of_texts(
                f"r2_{arm}_over_control",
                f"{words}: R² of frequency at the end over that of the unchanged "
                "text from the same seed",
                at_least=0.5,
            )
            for arm, words in _CHANGED.items()
        ),
        *(
            _of_texts(
                f"halfway_{arm}_over_control",
                f"{words}: half-way step, as a share of what the counts so far allow, over that of "
                "the unchanged text",
                at_most=2,
            )
            for arm, words in _CHANGED.items()
        ),
        _of_texts(
            "r2_second_beyond_first_gain",
            "after another text for the second half of the steps: R² of what its "
            "counts say beyond those of the first text, less that from the E of a run that never "
            "read it",
            at_least=0.1,
        ),
    ),
    controls=(
        _of_texts(
            "r2_step0_largest",
            "largest R² of any run before its first step",
            at_most=0.05,
        ),
        _of_texts(
            "r2_parent_over_whole",
            "a count that no id has: that of whole tokens, from E where they are split into "
            "aliases of about equal counts, over the same from E where they are whole",
            at_most=0.5,
        ),
    ),
    figure=(_TEXTS_AND_ORDER, "fig-arms"),
    remark="If the encoding is training's own answer to frequencies, it appears in every order and "
    "without contexts, follows the text that is read, and holds nothing of a count that no id has. "
    "That last one could go the other way: the aliases of a frequent token stand in its many "
    "contexts, and E could show how many they are.",
)
