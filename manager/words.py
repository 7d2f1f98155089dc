"""Every word of the page, in French and in English; the French ones are the guide's own."""

from __future__ import annotations

import re
from collections.abc import Callable

LANGUAGES = ("fr", "en")
Say = Callable[..., str]

# key: (French, English). {names} are filled in; a test compares them between the languages.
WORDS: dict[str, tuple[str, str]] = {
    "language": ("Français", "English"),
    "other_language": ("English", "Français"),
    "skip": ("Aller au contenu", "Skip to the content"),
    "product": ("Renvoi", "Renvoi"),
    "tagline": ("Vos renvois d’appels", "Your call forwarding"),
    "lead": (
        "Choisissez où vont vos appels quand vous ne pouvez pas répondre.",
        "Choose where your calls go when you cannot answer.",
    ),
    "log_in": ("Se connecter", "Log in"),
    "log_out": ("Se déconnecter", "Log out"),
    "account": ("Identifiant", "Account"),
    "password": ("Mot de passe", "Password"),
    "login_wrong": (
        "Identifiant ou mot de passe incorrect.",
        "The account or the password is wrong.",
    ),
    "login_many": (
        "Trop d’essais : réessayez dans {minutes} min.",
        "Too many attempts: try again in {minutes} min.",
    ),
    "login_needed": (
        "Votre session est terminée. Reconnectez-vous pour continuer.",
        "Your session has ended. Log in to go on.",
    ),
    "fleet": ("Parc {fleet}", "Fleet {fleet}"),
    "operator": ("Opérateur", "Operator"),
    "trail": ("Fil d’Ariane", "You are here"),
    # lines
    "lines": ("Lignes", "Lines"),
    "choose_line": ("Choisissez la ligne", "Choose the line"),
    "search": ("Rechercher une ligne", "Search for a line"),
    "search_hint": ("Numéro ou nom. Touche / pour y aller.", "Number or name. Press / for it."),
    "search_do": ("Rechercher", "Search"),
    "found": ("{count} lignes", "{count} lines"),
    "found_one": ("1 ligne", "1 line"),
    "found_none": ("Aucune ligne ne correspond.", "No line matches."),
    "found_for": ("pour « {words} »", "for “{words}”"),
    "line": ("Ligne", "Line"),
    "state": ("État", "State"),
    "active_forwards": ("Renvois actifs", "Active forwards"),
    "no_forward": ("Aucun renvoi", "None"),
    "next_page": ("Lignes suivantes", "Next lines"),
    "first_page": ("Retour au début", "Back to the first"),
    "connected": ("Connectée", "Connected"),
    "not_connected": ("Non connectée", "Not connected"),
    "suspended": ("Suspendue", "Suspended"),
    "select": ("Choisir {number}", "Select {number}"),
    "several": ("Appliquer à plusieurs lignes", "Apply to several lines"),
    "several_hint": (
        "Cochez des lignes pour leur donner les mêmes renvois.",
        "Tick lines to give them the same forwards.",
    ),
    "several_found": ("Appliquer aux {count} lignes trouvées", "Apply to the {count} lines found"),
    # a line
    "management": ("Gestion des appels", "Call management"),
    "forwarding": ("Renvoi d’appels", "Call forwarding"),
    "manage": ("Gérer", "Manage"),
    "phones": ("Téléphones", "Phones"),
    "phones_none": ("Aucun téléphone connecté", "No phone connected"),
    "phones_one": ("1 téléphone connecté", "1 phone connected"),
    "phones_many": ("{count} téléphones connectés", "{count} phones connected"),
    "calls_now": ("Appels en cours", "Calls in progress"),
    "calls_of": ("{count} sur {most}", "{count} of {most}"),
    "calls_uncounted": ("Sans limite, non comptés", "No limit, not counted"),
    "offer": ("Offre", "Plan"),
    "offer_none": ("Mobiles non compris", "Mobiles not included"),
    "offer_unlimited": ("Mobiles illimités", "Unlimited mobiles"),
    "offer_hours": ("{hours} h vers les mobiles", "{hours} h to mobiles"),
    "offer_fax": ("avec fax", "with fax"),
    "plan_left": ("Il reste {left} ce mois-ci", "{left} left this month"),
    "month_use": ("Renvois de ce mois", "Forwarded this month"),
    "off": ("Désactivé", "Off"),
    "next_call": ("Le prochain appel", "The next call"),
    "last_calls": ("Derniers appels renvoyés", "Last forwarded calls"),
    "last_calls_none": ("Aucun appel renvoyé récemment.", "No call was forwarded lately."),
    "when": ("Quand", "When"),
    "caller": ("Appelant", "Caller"),
    "caller_hidden": ("Numéro masqué", "Withheld"),
    "why": ("Motif", "Reason"),
    "to_where": ("Vers", "To"),
    "cost": ("Coût", "Cost"),
    "history": ("Historique des changements", "History of changes"),
    "history_none": ("Aucun changement pour l’instant.", "No change so far."),
    "who": ("Qui", "Who"),
    "from": ("Avant", "Before"),
    "to": ("Après", "After"),
    "how_page": ("page", "page"),
    "how_api": ("API", "API"),
    "how_phone": ("téléphone", "phone"),
    "how_cli": ("exploitation", "operations"),
    "other_fields": ("Autres réglages", "Other settings"),
    # short names of the conditions
    "unconditional": ("Tous les appels", "All calls"),
    "no_answer": ("Pas de réponse", "No answer"),
    "busy": ("Occupée", "Busy"),
    "unreachable": ("Injoignable", "Unreachable"),
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
        "La ligne ne sonne pas. L’emporte sur les autres renvois.",
        "The line does not ring. Wins over the other forwards.",
    ),
    "hint_no_answer": (
        "La ligne sonne d’abord. De 5 à 60 secondes.",
        "The line rings first. 5 to 60 seconds.",
    ),
    "hint_busy": (
        "Vous êtes déjà en ligne, ou vous refusez l’appel.",
        "You are on the phone already, or you decline the call.",
    ),
    "hint_unreachable": (
        "Aucun téléphone n’est connecté : coupure d’internet, par exemple.",
        "No phone is connected: the internet is cut, for example.",
    ),
    "service": ("Service", "Service"),
    "voicemail": ("Messagerie", "Voicemail"),
    "fax": ("Fax", "Fax"),
    "number": ("Numéro", "Number"),
    "target_voicemail": ("Messagerie de la ligne", "Voicemail of line"),
    "target_fax": ("Ligne fax", "Fax line"),
    "target_number": ("Numéro ou ligne", "Number or line"),
    "help_voicemail": (
        "Cette ligne ou une autre du parc : numéro ou nom. Vide : la messagerie de la ligne.",
        "This line or another of the fleet: number or name. Empty: the line’s own voicemail.",
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
    "preview": ("Ce que cela change", "What this does"),
    "preview_title": ("Vérifiez, puis validez", "Check, then confirm"),
    "preview_fix": ("Corrigez d’abord ce qui suit :", "Correct this first:"),
    "preview_none": ("Aucun renvoi : la ligne sonne.", "No forward: the line rings."),
    "no_change": ("Rien n’a changé", "Nothing has changed"),
    "costs": ("Ce que coûtent ces renvois", "What these forwards cost"),
    "quoted": ("« {text} »", "“{text}”"),
    "conflict_all": (
        "« Tous les appels » l’emporte : {others} n’agiront pas tant qu’il est actif.",
        "“All calls” wins: {others} will do nothing while it is on.",
    ),
    "conflict_all_one": (
        "« Tous les appels » l’emporte : {others} n’agira pas tant qu’il est actif.",
        "“All calls” wins: {others} will do nothing while it is on.",
    ),
    "conflict_busy": (
        "La ligne n’a pas de limite d’appels : elle n’est occupée que si le téléphone le dit.",
        "The line has no limit of calls: it is busy only when the phone says so.",
    ),
    "conflict_same": (
        "Deux lignes se renvoient l’une à l’autre : {other} renvoie déjà vers cette ligne.",
        "Two lines forward to one another: {other} already forwards to this line.",
    ),
    "cap_empty": (
        "Le plafond hors forfait du parc est atteint ce mois-ci : "
        "les renvois hors forfait ou à l’international n’agiront pas.",
        "The fleet’s cap on calls out of plan is reached this month: "
        "forwards out of plan or abroad will do nothing.",
    ),
    "cap": ("Hors forfait du parc", "The fleet’s out of plan"),
    "cap_left": ("Il reste {left} sur {cap}", "{left} left of {cap}"),
    "fleet_suspended": ("Le parc est suspendu.", "The fleet is suspended."),
    # costs
    "cost_free_voicemail": ("Gratuit : messagerie.", "Free: voicemail."),
    "cost_free_fax": ("Gratuit : fax du parc.", "Free: fax of the fleet."),
    "cost_free_line": ("Gratuit : ligne de votre parc.", "Free: a line of your fleet."),
    "cost_standard": (
        "Au tarif d’un appel ordinaire de cette ligne.",
        "At the price of an ordinary call of this line.",
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
        "Abroad: out of plan, at the price of the country called, mobiles included.",
    ),
    "cost_satellite": (
        "Satellite : hors forfait, au tarif du réseau appelé.",
        "Satellite: out of plan, at the price of the network called.",
    ),
    "cost_international_network": (
        "Réseau mondial : hors forfait, au tarif du réseau appelé.",
        "Global network: out of plan, at the price of the network called.",
    ),
    "cost_personal": (
        "Numéro personnel : hors forfait, au tarif du service appelé.",
        "Personal number: out of plan, at the price of the service called.",
    ),
    "refused": (
        "{what} vers {number} n’agit pas. {why}",
        "{what} to {number} does nothing. {why}",
    ),
    "who_pays": (
        "C’est cette ligne qui paie l’appel renvoyé, quel que soit l’appelant.",
        "This line pays for the forwarded call, whoever calls.",
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
    "go_number": ("numéro {number}", "number {number}"),
    "step_arrives": ("Un appel arrive sur {number}", "A call comes to {number}"),
    "step_rings": ("La ligne sonne", "The line rings"),
    "step_rings_for": ("La ligne sonne {seconds} s", "The line rings for {seconds} s"),
    "step_all": ("Renvoyé aussitôt", "Forwarded at once"),
    "step_busy_now": (
        "La ligne est occupée en ce moment",
        "The line is busy at this moment",
    ),
    "step_unreachable_now": (
        "Aucun téléphone n’est connecté en ce moment",
        "No phone is connected at this moment",
    ),
    "step_busy": ("Si elle est occupée", "If it is busy"),
    "step_no_answer": ("Sans réponse", "Without an answer"),
    "step_unreachable": ("Si elle est injoignable", "If it is unreachable"),
    "step_then": ("Puis, sur {number}", "Then, at {number}"),
    "step_to": ("→ {where}", "→ {where}"),
    "end_busy": ("L’appelant entend « occupé »", "The caller hears “busy”"),
    "end_no_answer": ("L’appel prend fin sans réponse", "The call ends without an answer"),
    "end_unreachable": (
        "L’appelant apprend que la ligne est injoignable",
        "The caller is told that the line is unreachable",
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
    # in force
    "done_title": ("C’est en vigueur", "It is in force"),
    "done_pending_title": ("C’est enregistré", "It is saved"),
    "done_proof": (
        "Les {workers} serveurs d’appels l’ont confirmé en {seconds} s. "
        "La promesse est d’une minute.",
        "All {workers} call servers confirmed it within {seconds} s. The promise is one minute.",
    ),
    "done_proof_one": (
        "Le serveur d’appels l’a confirmé en {seconds} s. La promesse est d’une minute.",
        "The call server confirmed it within {seconds} s. The promise is one minute.",
    ),
    "done_partly": (
        "{said} serveurs d’appels sur {workers} l’ont confirmé. "
        "Le changement prend effet dans la minute.",
        "{said} of {workers} call servers confirmed it. The change takes effect within the minute.",
    ),
    "done_nobody": (
        "Aucun serveur d’appels ne répond en ce moment. "
        "Le changement prendra effet dès qu’il y en aura un.",
        "No call server answers at this moment. The change takes effect as soon as one does.",
    ),
    "done_same": (
        "Ces renvois étaient déjà ceux de la ligne.",
        "These already were the line’s forwards.",
    ),
    "done_look": ("Vérifier de nouveau", "Check again"),
    "back_line": ("Retour à la ligne", "Back to the line"),
    "back_lines": ("Choisir une autre ligne", "Choose another line"),
    # several people
    "changed_title": (
        "Cette ligne vient d’être modifiée",
        "This line has just been changed",
    ),
    "changed_by": (
        "{who} l’a modifiée ({when}) pendant que vous la prépariez. "
        "Rien de votre saisie n’est enregistré.",
        "{who} changed it ({when}) while you were at it. Nothing of what you typed is saved.",
    ),
    "changed_unknown": (
        "Elle a été modifiée pendant que vous la prépariez. "
        "Rien de votre saisie n’est enregistré.",
        "It was changed while you were at it. Nothing of what you typed is saved.",
    ),
    "changed_what": (
        "Comparez. « Valider » remplacera par votre saisie ce qui est maintenant en vigueur.",
        "Compare. “Confirm” will replace what is now in force by what you typed.",
    ),
    "theirs": ("Maintenant", "Now"),
    "yours": ("Votre saisie", "Yours"),
    "take_theirs": ("Garder ce qui est en vigueur", "Keep what is in force"),
    # errors
    "errors_title": ("Il y a un problème", "There is a problem"),
    "errors_title_many": ("Il y a {count} problèmes", "There are {count} problems"),
    "error_self": (
        "Une ligne ne peut pas se renvoyer à elle-même.",
        "A line cannot be forwarded to itself.",
    ),
    "error_premium": (
        "Les numéros surtaxés ne sont pas possibles.",
        "Premium numbers are not possible.",
    ),
    "error_emergency": (
        "Les numéros d’urgence ne sont pas possibles.",
        "Emergency numbers are not possible.",
    ),
    "error_short": ("Les numéros courts ne sont pas possibles.", "Short numbers are not possible."),
    "error_shared_cost": (
        "Les numéros à coût partagé ne sont pas possibles.",
        "Shared-cost numbers are not possible.",
    ),
    "error_invalid": ("Ce numéro n’est pas attribuable.", "This is not a valid number."),
    "error_country_refused": (
        "Les renvois vers ce pays ne sont pas permis.",
        "Forwards to this country are not allowed.",
    ),
    "error_fleet_countries": (
        "Les renvois vers ce pays ne sont pas permis à votre parc.",
        "Forwards to this country are not allowed to your fleet.",
    ),
    "error_not_fleet": (
        "Ce n’est pas une ligne de votre parc.",
        "This is not a line of your fleet.",
    ),
    "error_no_fax": (
        "Cette ligne n’a pas l’offre fax.",
        "This line does not have the fax offer.",
    ),
    "error_extension": (
        "Un numéro ne peut pas avoir de poste.",
        "A number cannot have an extension.",
    ),
    "error_needed": ("Indiquez un numéro.", "Give a number."),
    "error_service": ("Choisissez un service.", "Choose a service."),
    "error_no_number": (
        "« {value} » n’est ni un numéro ni le nom d’une ligne.",
        "“{value}” is neither a number nor the name of a line.",
    ),
    "error_ambiguous": (
        "Plusieurs lignes s’appellent « {value} » : donnez le numéro.",
        "Several lines are called “{value}”: give the number.",
    ),
    "error_too_short": (
        "Il manque des chiffres à ce numéro.",
        "This number lacks digits.",
    ),
    "error_too_long": ("Ce numéro a trop de chiffres.", "This number has too many digits."),
    "error_country": (
        "L’indicatif du pays n’existe pas.",
        "The country code does not exist.",
    ),
    "error_after": (
        "Indiquez un nombre de secondes entre 5 et 60.",
        "Give a number of seconds from 5 to 60.",
    ),
    "error_other": ("Refusé : {problem}.", "Refused: {problem}."),
    "error_form": (
        "Ce formulaire est trop ancien ou ne vient pas de cette page. Recommencez.",
        "This form is too old or did not come from this page. Start again.",
    ),
    "error_404": ("Cette page n’existe pas", "There is no such page"),
    "error_404_what": (
        "Ou bien la ligne n’est pas de votre parc.",
        "Or the line is not one of your fleet.",
    ),
    "error_403": ("Ce n’est pas possible", "This is not possible"),
    "error_409": ("Cette ligne a besoin de l’assistance", "This line needs the support"),
    "error_409_what": (
        "Ses réglages sont illisibles : {detail}",
        "Its settings cannot be read: {detail}",
    ),
    "error_503": ("Service momentanément indisponible", "Not available at this moment"),
    "error_503_what": (
        "Rien n’a été modifié. Réessayez dans un instant.",
        "Nothing was changed. Try again in a moment.",
    ),
    "error_500": ("Une erreur s’est produite", "Something went wrong"),
    # several lines
    "bulk_title": ("Les mêmes renvois pour {count} lignes", "The same forwards for {count} lines"),
    "bulk_title_one": ("Les mêmes renvois pour 1 ligne", "The same forwards for 1 line"),
    "bulk_none": (
        "Choisissez d’abord au moins une ligne.",
        "First choose at least one line.",
    ),
    "bulk_most": (
        "Au plus {most} lignes à la fois ; les {most} premières sont prises.",
        "At most {most} lines at a time; the first {most} are taken.",
    ),
    "bulk_keep": ("Ne pas changer", "Leave as it is"),
    "bulk_off": ("Désactiver", "Turn off"),
    "bulk_on": ("Activer", "Turn on"),
    "bulk_nothing": ("Choisissez au moins un renvoi à changer.", "Choose a forward to change."),
    "bulk_lines": ("Lignes concernées", "The lines"),
    "bulk_ready": ("Lignes à changer : {count}", "Lines to change: {count}"),
    "bulk_refused": ("Restent comme elles sont : {count}", "Stay as they are: {count}"),
    "bulk_done": ("Lignes changées : {count}", "Lines changed: {count}"),
    "bulk_same": ("Déjà ainsi : {count}.", "So already: {count}."),
    "bulk_cost": ("{count} × {cost}", "{count} × {cost}"),
}  # fmt: skip


# French sets a space before some signs, at which no line may break.
_TIGHT = re.compile(" (?=[:;!?»])|(?<=«) ")
_SAID = {
    "fr": {key: _TIGHT.sub("\u00a0", french) for key, (french, _) in WORDS.items()},
    "en": {key: english for key, (_, english) in WORDS.items()},
}


def speaker(language: str) -> Say:
    """The function that says a word in this language."""
    said = _SAID[language]

    def say(key: str, **values: object) -> str:
        text = said[key]
        return text.format(**values) if values else text

    return say


def preferred(header: str) -> str:
    """The language of an Accept-Language header; French unless English is preferred."""
    best, weight = LANGUAGES[0], -1.0
    for part in header.split(","):
        name, _, q = part.partition(";")
        language = name.strip().lower().partition("-")[0]
        try:
            value = float(q.partition("=")[2] or 1)
        except ValueError:
            value = 0.0
        if language in LANGUAGES and value > weight:
            best, weight = language, value
    return best
