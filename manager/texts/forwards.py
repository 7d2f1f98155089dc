"""The form of the four forwards, what came of it, and who else was at it."""

from __future__ import annotations

WORDS: dict[str, tuple[str, str]] = {
    # the four choices
    "if_unconditional": ("Renvoyer tous les appels vers", "Forward all calls to"),
    "if_no_answer": ("Si pas de réponse avant", "If no answer within"),
    "if_no_answer_s": (
        "Si pas de réponse avant {seconds} sec",
        "If no answer within {seconds} sec",
    ),
    "seconds": ("sec", "sec"),
    "if_busy": ("Si la ligne est occupée", "If the line is busy"),
    "if_unreachable": (
        "Si la ligne est injoignable ou déconnectée",
        "If the line is unreachable or disconnected",
    ),
    "hint_unconditional": (
        "La ligne ne sonne pas. Ce renvoi l’emporte sur les autres.",
        "The line does not ring. This overrides the other forwards.",
    ),
    "hint_no_answer": (
        "La ligne sonne d’abord. De 5 à 60 secondes.",
        "The line rings first. 5 to 60 seconds.",
    ),
    "hint_busy": (
        "Quand vous êtes déjà en ligne, ou que vous refusez l’appel.",
        "When you are already on the phone, or decline the call.",
    ),
    "hint_unreachable": (
        "Quand aucun téléphone n’est connecté : coupure d’internet, par exemple.",
        "When no phone is connected: an internet outage, for example.",
    ),
    "service": ("Service", "Service"),
    "voicemail": ("Messagerie", "Voicemail"),
    "fax": ("Fax", "Fax"),
    "number": ("Numéro", "Number"),
    "target_voicemail": ("Messagerie de la ligne", "Voicemail of line"),
    "target_fax": ("Ligne fax", "Fax line"),
    "target_number": ("Numéro ou ligne", "Number or line"),
    "own_box": ("Ma messagerie", "My voicemail"),
    "own_box_line": ("La messagerie de la ligne", "The line’s own voicemail"),
    "own_box_each": ("La messagerie de chaque ligne", "Each line’s own voicemail"),
    "other_box": ("Celle d’une autre ligne", "That of another line"),
    "help_voicemail": (
        "Une ligne du parc : numéro ou nom.",
        "A line of the fleet: number or name.",
    ),
    "help_fax": ("Une ligne du parc avec l’offre fax.", "A line of the fleet with the fax offer."),
    "help_number": (
        "Une ligne du parc (numéro ou nom), ou un numéro extérieur.",
        "A line of the fleet (number or name), or an outside number.",
    ),
    "after_label": ("Secondes de sonnerie", "Seconds of ringing"),
    "validate": ("Valider", "Confirm"),
    "check": ("Aperçu", "Preview"),
    "cancel": ("Annuler", "Cancel"),
    "edit": ("Modifier", "Change"),
    "preview": ("Ce que cela change", "What will change"),
    "preview_title": ("Vérifiez, puis validez", "Check, then confirm"),
    "preview_fix": ("Corrigez d’abord ce qui suit :", "Correct this first:"),
    "preview_same": ("Rien ne change pour l’instant.", "Nothing changes yet."),
    "restoring": (
        "Voici les renvois tels qu’ils étaient avant ce changement. "
        "Vérifiez, puis validez : rien n’est encore enregistré.",
        "These are the forwards as they were before that change. "
        "Check, then confirm: nothing is saved yet.",
    ),
    "restore": ("Rétablir l’état d’avant", "Restore what was before"),
    "kept": (
        "Vous revoilà. Voici votre saisie : rien n’est encore enregistré.",
        "Welcome back. Here is what you typed: nothing is saved yet.",
    ),
    "preview_wait": ("Calcul de l’aperçu…", "Working out the preview…"),
    "preview_typing": (
        "L’aperçu s’affiche dès que la saisie est complète.",
        "The preview shows as soon as you have finished typing.",
    ),
    "preview_away": (
        "Aperçu indisponible : le coût de ce changement n’est pas connu pour l’instant. "
        "Votre saisie est toujours là.",
        "No preview: the cost of this change is not known at the moment. "
        "What you typed is still here.",
    ),
    "preview_ended": (
        "Aperçu indisponible : votre session est terminée. "
        "Reconnectez-vous, vous retrouverez votre saisie.",
        "No preview: your session has ended. Log in again and you will find what you typed.",
    ),
    "no_change": ("Rien n’a changé", "Nothing has changed"),
    "quoted": ("« {text} »", "“{text}”"),
    "conflict_all": (
        "« Tous les appels » l’emporte : {others} n’agiront pas tant qu’il est actif.",
        "“All calls” comes first: {others} will have no effect while it is on.",
    ),
    "conflict_all_one": (
        "« Tous les appels » l’emporte : {others} n’agira pas tant qu’il est actif.",
        "“All calls” comes first: {others} will have no effect while it is on.",
    ),
    "conflict_busy": (
        "Cette ligne n’a pas de limite d’appels simultanés : elle n’est occupée que si le "
        "téléphone le signale.",
        "This line has no limit on simultaneous calls: it is busy only when the phone says so.",
    ),
    "conflict_same": (
        "Deux lignes se renvoient l’une à l’autre : {other} renvoie déjà vers cette ligne.",
        "These two lines forward to each other: {other} already forwards to this line.",
    ),
    "cap_empty": (
        "Le plafond hors forfait du parc est atteint ce mois-ci : les renvois hors forfait "
        "ou à l’international ne se feront pas.",
        "The fleet has used up its out-of-plan cap for this month: forwards out of plan or "
        "abroad will not happen.",
    ),
    "cap": ("Hors forfait du parc", "Fleet’s out-of-plan cap"),
    "cap_left": ("Il reste {left} sur {cap}", "{left} left of {cap}"),
    "fleet_suspended": ("Le parc est suspendu.", "The fleet is suspended."),
    # in force
    "done_title": ("C’est en vigueur", "It is in force"),
    "done_pending_title": ("C’est enregistré", "It is saved"),
    "done_proof": (
        "Les {workers} serveurs d’appels l’ont confirmé en {seconds} s.",
        "All {workers} call servers confirmed it within {seconds} s.",
    ),
    "done_proof_one": (
        "Le serveur d’appels l’a confirmé en {seconds} s.",
        "The call server confirmed it within {seconds} s.",
    ),
    "done_partly": (
        "{said} serveurs d’appels sur {workers} l’ont confirmé. Les autres suivent.",
        "{said} of {workers} call servers have confirmed it. The others will follow.",
    ),
    "done_nobody": (
        "Aucun serveur d’appels ne répond en ce moment. Le changement prendra effet dès "
        "qu’il y en aura un.",
        "No call server is answering at the moment. The change will take effect as soon as "
        "one does.",
    ),
    "done_same": ("La ligne avait déjà ces renvois.", "The line already had these forwards."),
    "done_look": ("Vérifier à nouveau", "Check again"),
    "back_line": ("Retour à la ligne", "Back to the line"),
    "back_lines": ("Choisir une autre ligne", "Choose another line"),
    # several people
    "changed_title": (
        "Cette ligne vient d’être modifiée",
        "This line has just been changed",
    ),
    "changed_by": (
        "{who} l’a modifiée ({when}) pendant que vous la prépariez. Rien de votre saisie "
        "n’est enregistré.",
        "{who} changed it ({when}) while you were editing. Nothing you typed has been saved.",
    ),
    "changed_unknown": (
        "Elle a été modifiée pendant que vous la prépariez. Rien de votre saisie n’est "
        "enregistré.",
        "It was changed while you were editing. Nothing you typed has been saved.",
    ),
    "changed_what": (
        "Comparez. « Valider » remplacera par votre saisie ce qui est maintenant en vigueur.",
        "Compare. “Confirm” will replace what is now in force with what you typed.",
    ),
    "theirs": ("Maintenant", "Now"),
    "yours": ("Votre saisie", "Yours"),
    "take_theirs": ("Garder ce qui est en vigueur", "Keep what is in force"),
}  # fmt: skip
