"""What forwards cost, and where the next call goes."""

from __future__ import annotations

WORDS: dict[str, tuple[str, str]] = {
    # costs
    "cost_free_voicemail": ("Gratuit : messagerie.", "Free: voicemail."),
    "cost_free_fax": ("Gratuit : fax du parc.", "Free: a fax line of your fleet."),
    "cost_free_line": ("Gratuit : ligne de votre parc.", "Free: a line of your fleet."),
    "cost_standard": (
        "Au tarif d’un appel ordinaire de cette ligne.",
        "At this line’s ordinary call rate.",
    ),
    "cost_deducted": (
        "Déduit de vos {hours} h vers les mobiles : il reste {left} ce mois-ci, "
        "ensuite hors forfait.",
        "Deducted from your {hours} h to mobiles: {left} left this month, out of plan after that.",
    ),
    "cost_spent": (
        "Hors forfait : vos {hours} h vers les mobiles sont épuisées ce mois-ci.",
        "Out of plan: your {hours} h to mobiles are used up this month.",
    ),
    "cost_unlimited": (
        "Hors forfait : l’offre « mobiles illimités » ne comprend pas les appels renvoyés "
        "vers un mobile.",
        "Out of plan: “unlimited mobiles” does not include calls forwarded to a mobile.",
    ),
    "cost_none": (
        "Hors forfait : l’offre de cette ligne ne comprend pas les mobiles.",
        "Out of plan: this line’s plan does not include mobiles.",
    ),
    "cost_international": (
        "À l’international : hors forfait, au tarif du pays appelé, mobiles compris.",
        "Abroad: out of plan, at the rate of the country called, mobiles included.",
    ),
    "cost_satellite": (
        "Satellite : hors forfait, au tarif du réseau appelé.",
        "Satellite: out of plan, at the rate of the network called.",
    ),
    "cost_international_network": (
        "Réseau mondial : hors forfait, au tarif du réseau appelé.",
        "Global network: out of plan, at the rate of the network called.",
    ),
    "cost_personal": (
        "Numéro personnel : hors forfait, au tarif du service appelé.",
        "Personal number: out of plan, at the rate of the service called.",
    ),
    "onward_all": (
        "La ligne {line} renvoie à son tour tous ses appels vers : {where}. {cost}",
        "Line {line} in turn forwards all its calls to: {where}. {cost}",
    ),
    "onward_busy": (
        "Si elle est occupée, la ligne {line} renvoie à son tour vers : {where}. {cost}",
        "When busy, line {line} in turn forwards to: {where}. {cost}",
    ),
    "onward_no_answer": (
        "Sans réponse, la ligne {line} renvoie à son tour vers : {where}. {cost}",
        "If nobody answers, line {line} in turn forwards to: {where}. {cost}",
    ),
    "onward_unreachable": (
        "Si elle est injoignable, la ligne {line} renvoie à son tour vers : {where}. {cost}",
        "When unreachable, line {line} in turn forwards to: {where}. {cost}",
    ),
    "onward_pays": (
        "C’est la ligne {line} qui paie ce renvoi.",
        "Line {line} pays for that forward.",
    ),
    "warn_suspended": (
        "La ligne {line} est suspendue : l’appel sera refusé.",
        "Line {line} is suspended: the call will be refused.",
    ),
    "warn_unreachable": (
        "En ce moment, aucun téléphone n’est connecté à la ligne {line} : personne ne "
        "répondrait.",
        "No phone is connected to line {line} at the moment: nobody would answer.",
    ),
    "refused": (
        "{what} vers {number} n’agit pas. {why}",
        "{what} to {number} has no effect. {why}",
    ),
    "who_pays": (
        "C’est cette ligne qui paie l’appel renvoyé, quel que soit l’appelant.",
        "This line pays for the forwarded call, whoever is calling.",
    ),
    "free": ("Gratuit", "Free"),
    "standard": ("Ordinaire", "Ordinary"),
    "deducted": ("Déduit du forfait", "Deducted"),
    "out_of_plan": ("Hors forfait", "Out of plan"),
    "international": ("International", "International"),
    "satellite": ("Satellite", "Satellite"),
    "international_network": ("Réseau mondial", "Global network"),
    "personal": ("Numéro personnel", "Personal number"),
    # where a call goes
    "go_own_voicemail": ("messagerie de la ligne", "the line’s voicemail"),
    "go_voicemail": ("messagerie du {number}", "voicemail of {number}"),
    "go_fax": ("fax {number}", "fax {number}"),
    "go_line": ("ligne {number}", "line {number}"),
    "go_outside": ("un numéro extérieur", "an outside number"),
    "go_number": ("numéro {number}", "number {number}"),
    "step_arrives": ("Un appel arrive sur {number}", "A call comes in on {number}"),
    "step_rings": ("La ligne sonne", "The line rings"),
    "step_rings_for": ("La ligne sonne {seconds} s", "The line rings for {seconds} s"),
    "step_all": ("Renvoyé aussitôt", "Forwarded at once"),
    "step_busy_now": ("La ligne est occupée en ce moment", "The line is busy at the moment"),
    "step_unreachable_now": (
        "Aucun téléphone n’est connecté en ce moment",
        "No phone is connected at the moment",
    ),
    "step_busy": ("Si elle est occupée", "If it is busy"),
    "step_no_answer": ("Sans réponse", "If nobody answers"),
    "step_unreachable": ("Si elle est injoignable", "If it is unreachable"),
    "step_then": ("Puis, sur {number}", "Then, at {number}"),
    "step_to": ("→ {where}", "→ {where}"),
    "end_busy": ("L’appelant entend « occupé »", "The caller hears “busy”"),
    "end_no_answer": ("L’appel se termine sans réponse", "The call ends unanswered"),
    "end_unreachable": (
        "L’appelant est informé que la ligne est injoignable",
        "The caller is told that the line cannot be reached",
    ),
    "end_suspended": (
        "La ligne est suspendue : l’appel est refusé",
        "The line is suspended: the call is refused",
    ),
    "end_other": ("L’appel est refusé", "The call is refused"),
    "say_all": (
        "Le prochain appel part aussitôt vers : {where}. La ligne ne sonne pas.",
        "The next call goes at once to: {where}. The line does not ring.",
    ),
    "say_rings": ("Le prochain appel fait sonner la ligne.", "The next call rings the line."),
    "say_now": (
        "{state} : le prochain appel va vers : {where}.",
        "{state}: the next call goes to: {where}.",
    ),
    "say_end": ("{state} : {end}.", "{state}: {end}."),
    "say_refused": ("{end}.", "{end}."),
}  # fmt: skip
